//! What NVIDIA cards say of themselves, through the management library of their driver (NVML).
//!
//! The library is loaded at run time and belongs to the driver; where it or a card is missing there is
//! nothing to tell, and that is no fault. A thread of its own asks the cards every [`PACE`], and a scrape
//! reads what was told last: a card that hangs holds up that thread and nobody else.
//!
//! Invariants:
//! 1. What a card doesn't tell is left out, never 0; what it told too long ago ([`STALE`]) is left out too.
//! 2. Nothing of the engine depends on this, and nothing on a card is changed.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Between two looks. Prometheus asks every 15 s or less often, and a card's temperature is slow.
const PACE: Duration = Duration::from_secs(10);

/// Three looks that did not come.
const STALE: Duration = Duration::from_secs(30);

/// One card, as of now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Card {
    /// As its device file is called: `nvidia0`.
    pub(super) name: String,
    pub(super) celsius: Option<f64>,
    /// What slows it, by name, and whether it does: `thermal`, `hardware`, `power-cap`.
    pub(super) slowed_by: Vec<(&'static str, bool)>,
    /// `now` and `most`: its processors' clock.
    pub(super) hertz: Vec<(&'static str, f64)>,
    /// `now` and `most`: what it draws, and may draw.
    pub(super) watts: Vec<(&'static str, f64)>,
    /// `used`, `free` and `total` memory. A GPU that shares the machine's memory has none of its own.
    pub(super) bytes: Vec<(&'static str, f64)>,
}

/// Why no card is told of.
#[derive(Debug, thiserror::Error)]
#[error("the management library of NVIDIA's driver (libnvidia-ml.so.1) tells nothing: {0}")]
pub struct Untold(#[from] NvmlError);

/// What the cards told last, and when.
type Told = Mutex<Option<(Instant, Vec<Card>)>>;

/// The cards of this machine, as they are known to a scrape.
#[derive(Debug, Default)]
pub(super) struct Cards(Arc<Told>);

impl Cards {
    /// Asks them from now on, until this is dropped.
    pub(super) fn follow() -> Self {
        let cards = Self::default();
        let told = Arc::downgrade(&cards.0);
        let thread = std::thread::Builder::new().name("cards".to_owned());
        if let Err(error) = thread.spawn(move || follow(&told)) {
            tracing::warn!("no thread to ask the cards, metrics go without them: {error}");
        }
        cards
    }

    pub(super) fn told(&self, now: Instant) -> Vec<Card> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = told.as_ref().filter(|(at, _)| now.duration_since(*at) < STALE);
        fresh.map(|(_, cards)| cards.clone()).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn said(at: Instant, cards: Vec<Card>) -> Self {
        Self(Arc::new(Mutex::new(Some((at, cards)))))
    }
}

fn follow(told: &Weak<Told>) {
    let mut library = None;
    loop {
        // After a failure it is opened anew: a driver that was updated or loaded since is found.
        let asked = library.take().map_or_else(Nvml::init, Ok).and_then(|nvml| {
            let cards = ask(&nvml)?;
            library = Some(nvml);
            Ok(cards)
        });
        let Some(told) = told.upgrade() else { return };
        match asked {
            Ok(cards) => {
                *told.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((Instant::now(), cards));
            }
            Err(error) => tracing::debug!("{}", Untold(error)),
        }
        drop(told);
        std::thread::sleep(PACE);
    }
}

fn ask(nvml: &Nvml) -> Result<Vec<Card>, NvmlError> {
    let count = nvml.device_count()?;
    // One that is lost says nothing; the others do.
    let cards = (0..count).filter_map(|index| nvml.device_by_index(index).ok());
    Ok(cards.map(|device| card(&device)).collect())
}

fn card(device: &Device<'_>) -> Card {
    let number = device.minor_number().or_else(|_| device.index()).unwrap_or_default();
    let hertz = |mega: u32| f64::from(mega) * 1e6;
    let watts = |milli: u32| f64::from(milli) / 1e3;
    let memory = device.memory_info().ok();
    let bytes = |of: u64| of as f64;
    Card {
        name: format!("nvidia{number}"),
        celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        slowed_by: device.current_throttle_reasons().map(slowed_by).unwrap_or_default(),
        hertz: known([
            ("now", device.clock_info(Clock::SM).ok().map(hertz)),
            ("most", device.max_clock_info(Clock::SM).ok().map(hertz)),
        ]),
        watts: known([
            ("now", device.power_usage().ok().map(watts)),
            ("most", device.enforced_power_limit().ok().map(watts)),
        ]),
        bytes: known([
            ("used", memory.as_ref().map(|memory| bytes(memory.used))),
            ("free", memory.as_ref().map(|memory| bytes(memory.free))),
            ("total", memory.as_ref().map(|memory| bytes(memory.total))),
        ]),
    }
}

/// `hardware` is the card's own emergency: heat, or its power supply. A power cap is what most cards
/// work at when they are busy.
fn slowed_by(reasons: ThrottleReasons) -> Vec<(&'static str, bool)> {
    let thermal = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    let hardware = ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    let kinds = [
        ("thermal", thermal),
        ("hardware", hardware),
        ("power-cap", ThrottleReasons::SW_POWER_CAP),
    ];
    kinds.map(|(name, kind)| (name, reasons.intersects(kind))).into()
}

fn known<const N: usize>(figures: [(&'static str, Option<f64>); N]) -> Vec<(&'static str, f64)> {
    figures.into_iter().filter_map(|(name, figure)| Some((name, figure?))).collect()
}

/// What doctor says of them: driver and cards.
///
/// # Errors
/// [`Untold`], in words.
pub fn described() -> Result<String, Untold> {
    let nvml = Nvml::init()?;
    let driver = nvml.sys_driver_version()?;
    let cards = (0..nvml.device_count()?).filter_map(|index| {
        let device = nvml.device_by_index(index).ok()?;
        Some(format!("{} ({})", card(&device).name, device.name().ok()?))
    });
    let cards: Vec<_> = cards.collect();
    let cards = if cards.is_empty() { "no card".to_owned() } else { cards.join(", ") };
    Ok(format!("NVML of driver {driver} tells of {cards}: /metrics has their figures"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_too_long_ago_is_not_told_any_more() {
        let at = Instant::now();
        let card = Card { name: "nvidia0".to_owned(), ..Card::default() };
        let cards = Cards::said(at, vec![card.clone()]);
        assert_eq!(cards.told(at + STALE - Duration::from_secs(1)), [card]);
        assert_eq!(cards.told(at + STALE), []);
        assert_eq!(Cards::default().told(at), []);
    }

    #[test]
    fn a_card_is_slowed_by_heat_by_its_hardware_or_by_its_power_cap() {
        let by = |reasons| {
            let all = slowed_by(reasons).into_iter();
            all.filter(|(_, slowed)| *slowed).map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert!(
            by(ThrottleReasons::GPU_IDLE | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING).is_empty()
        );
        assert_eq!(by(ThrottleReasons::SW_THERMAL_SLOWDOWN), ["thermal"]);
        assert_eq!(by(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN), ["hardware"]);
        assert_eq!(by(ThrottleReasons::SW_POWER_CAP), ["power-cap"]);
        let hot = ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(by(hot), ["thermal", "hardware"]);
    }
}
