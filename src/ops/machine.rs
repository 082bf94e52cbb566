//! What `/metrics` says of the machine: temperature, throttling, power, memory, disk, clock.
//!
//! Files of the kernel and of NVIDIA's Jetson tools are read at every scrape; a card in a slot was asked
//! before ([`super::cards`]). What a machine doesn't have is simply not there: a figure that can't be
//! read is left out, never 0.
//!
//! Invariants:
//! 1. Labels are names that the kernel gives its own devices; nothing of a request.
//! 2. A scrape calls no device and asks nothing of the engine, so a hanging one doesn't stop it.

use super::cards::{Card, Cards};
use crate::cache::wall_clock::{self, Keeper};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::fs::statvfs;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// A machine whose `/` is `root`.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    folders: Vec<(&'static str, PathBuf)>,
    cards: Cards,
}

impl Machine {
    /// This one, its cards looked after from now on. Of `folders` (a name and a path each) the free
    /// space is told.
    #[must_use]
    pub fn here(folders: Vec<(&'static str, PathBuf)>) -> Self {
        Self { root: "/".into(), folders, cards: Cards::follow() }
    }

    fn read(&self, path: &str) -> Option<String> {
        trimmed(&self.root.join(path))
    }

    /// Folders below `path` whose name starts so.
    fn below(&self, path: &str, start: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut all: Vec<_> = entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(start))
            .map(|entry| entry.path())
            .collect();
        all.sort();
        all
    }

    /// °C by thermal zone or card; of two zones of one name the warmer.
    fn temperatures(&self, cards: &[Card]) -> Figures {
        let told = cards.iter().filter_map(|card| Some((card.name.clone(), card.celsius?)));
        let mut zones: Figures = told.collect();
        for zone in self.below("sys/class/thermal", "thermal_zone") {
            let (Some(name), Some(value)) =
                (trimmed(&zone.join("type")), number(&zone.join("temp")))
            else {
                continue;
            };
            // The kernel gives thousandths. Zones that are switched off read −256 °C on Jetsons.
            let celsius = value / 1000.0;
            if celsius > -200.0 {
                most(&mut zones, name, celsius);
            }
        }
        zones
    }

    /// How far each cooling device slows the machine, and whether a card's heat, hardware or power cap
    /// slows it: 0 is not at all. Fans slow nothing.
    fn throttling(&self, cards: &[Card]) -> Figures {
        let mut devices = Figures::new();
        for card in cards {
            for &(by, slowed) in &card.slowed_by {
                devices.insert(format!("{}-{by}", card.name), f64::from(u8::from(slowed)));
            }
        }
        for device in self.below("sys/class/thermal", "cooling_device") {
            let Some(name) = trimmed(&device.join("type")) else { continue };
            if let Some(state) = number(&device.join("cur_state"))
                && !name.to_lowercase().contains("fan")
            {
                most(&mut devices, name, state);
            }
        }
        devices
    }

    /// A GPU's clock now and at most: of the kernel where it scales it (Jetson), of the card.
    fn gpu_clock(&self, cards: &[Card]) -> Labelled {
        let mut clocks = of_cards(cards, "limit", |card| &card.hertz);
        for device in self.below("sys/class/devfreq", "") {
            let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.ends_with(".gpu") && !name.contains("gpu-gpc") && !name.ends_with(".ga10b") {
                continue;
            }
            for (limit, file) in [("now", "cur_freq"), ("most", "max_freq")] {
                if let Some(hertz) = number(&device.join(file)) {
                    clocks.push((vec![("gpu", name.clone()), ("limit", limit.to_owned())], hertz));
                }
            }
        }
        clocks
    }

    /// nvpmodel's mode (Jetson): 0 is the fastest of most modules.
    fn power_mode(&self) -> Option<f64> {
        let text = self.read("var/lib/nvpmodel/status")?;
        text.split_once(':')?.1.trim().parse().ok()
    }

    /// Of the whole machine; on a Jetson the GPU's is the same memory.
    fn memory(&self) -> Figures {
        let text = self.read("proc/meminfo").unwrap_or_default();
        let bytes = |name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: f64 = rest.trim_start_matches(':').trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kib * 1024.0)
        };
        let figures = [("total", bytes("MemTotal")), ("available", bytes("MemAvailable"))];
        figures.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// Share of an eMMC's life that is used, by disk, in steps of a tenth; JEDEC JESD84-B51, EXT_CSD
    /// 268 and 269: 1 is "up to 10 %", 11 is "exceeded". The worse of its two kinds of memory.
    fn emmc_wear(&self) -> Figures {
        let mut wear = Figures::new();
        for disk in self.below("sys/block", "mmcblk") {
            let text = trimmed(&disk.join("device/life_time")).unwrap_or_default();
            let kinds = text.split_whitespace().filter_map(|word| {
                let step = u8::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
                // 0: not told.
                (1..=11).contains(&step).then_some(f64::from(step) / 10.0)
            });
            let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for used in kinds {
                most(&mut wear, name.clone(), used);
            }
        }
        wear
    }

    fn free(&self) -> Figures {
        let free = |(name, path): &(&str, PathBuf)| {
            let disk = statvfs(path).ok()?;
            let bytes = disk.f_bavail.saturating_mul(disk.f_frsize) as f64;
            Some(((*name).to_owned(), bytes))
        };
        self.folders.iter().filter_map(free).collect()
    }

    fn clock(&self) -> Figures {
        let plausible = wall_clock::is_plausible(SystemTime::now());
        let synchronised = wall_clock::keeper(&self.root) != Keeper::Nobody;
        let figures = [("plausible", plausible), ("synchronised", synchronised)];
        figures.into_iter().map(|(name, yes)| (name.to_owned(), f64::from(u8::from(yes)))).collect()
    }
}

/// Values by label.
type Figures = BTreeMap<String, f64>;

/// Values by several.
type Labelled = Vec<(Vec<(&'static str, String)>, f64)>;

fn by(label: &'static str, figures: Figures) -> Labelled {
    figures.into_iter().map(|(name, figure)| (vec![(label, name)], figure)).collect()
}

/// Some of what cards told, by card and by `label`.
fn of_cards(
    cards: &[Card],
    label: &'static str,
    some: fn(&Card) -> &Vec<(&'static str, f64)>,
) -> Labelled {
    let told = cards.iter().flat_map(|card| some(card).iter().map(move |figure| (card, figure)));
    told.map(|(card, &(name, figure))| {
        (vec![("gpu", card.name.clone()), (label, name.to_owned())], figure)
    })
    .collect()
}

fn most(figures: &mut Figures, name: String, value: f64) {
    let kept = figures.entry(name).or_insert(value);
    *kept = kept.max(value);
}

fn trimmed(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &Path) -> Option<f64> {
    trimmed(path)?.parse().ok()
}

impl Collector for Machine {
    fn encode(&self, mut page: DescriptorEncoder<'_>) -> fmt::Result {
        let mode: Figures =
            self.power_mode().map(|mode| ("nvpmodel".to_owned(), mode)).into_iter().collect();
        let cards = self.cards.told(Instant::now());
        let watts = of_cards(&cards, "limit", |card| &card.watts);
        let card_memory = of_cards(&cards, "kind", |card| &card.bytes);
        let gauges = [
            ("temperature_celsius", "Temperatures", by("zone", self.temperatures(&cards))),
            (
                "throttling",
                "State of what slows the machine; 0 is full speed",
                by("device", self.throttling(&cards)),
            ),
            ("gpu_clock_hertz", "Clock of a GPU", self.gpu_clock(&cards)),
            ("gpu_power_watts", "Power that a card draws, and may draw", watts),
            ("gpu_memory_bytes", "Memory of a card", card_memory),
            ("power_mode", "Power mode as nvpmodel numbers it", by("by", mode)),
            ("memory_bytes", "Memory of the machine", by("kind", self.memory())),
            ("emmc_life_used", "Share of an eMMC's life, in tenths", by("disk", self.emmc_wear())),
            ("free_bytes", "Space left on the disk of a folder", by("folder", self.free())),
            ("clock", "1 where the wall clock can be believed so far", by("is", self.clock())),
        ];
        for (name, help, figures) in gauges {
            if figures.is_empty() {
                continue;
            }
            let kind = ConstGauge::new(0.0).metric_type();
            let mut family = page.encode_descriptor(name, help, None, kind)?;
            for (labels, figure) in figures {
                ConstGauge::new(figure).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    /// A made-up machine of these files.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        }
        let cards = Cards::default();
        let machine = Machine { root: root.path().to_owned(), folders: Vec::new(), cards };
        (root, machine)
    }

    fn page(machine: Machine) -> Vec<String> {
        let mut registry = Registry::with_prefix("sam2d");
        registry.register_collector(Box::new(machine));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        // Nothing is announced that is not there then.
        let announced =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let (figures, marks): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| !line.starts_with('#'));
        assert!(marks.len() > 2);
        for name in announced {
            assert!(figures.iter().any(|line| line.starts_with(&format!("{name}{{"))), "{name}");
        }
        figures.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_jetson_s_temperatures_throttling_power_mode_clock_memory_and_wear_are_told() {
        let (_root, machine) = machine(&[
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
            ("sys/class/thermal/thermal_zone0/temp", "48250"),
            ("sys/class/thermal/thermal_zone1/type", "gpu-thermal"),
            ("sys/class/thermal/thermal_zone1/temp", "-256000"),
            ("sys/class/thermal/thermal_zone2/type", "tj-thermal"),
            ("sys/class/thermal/thermal_zone2/temp", "51000"),
            ("sys/class/thermal/thermal_zone3/type", "tj-thermal"),
            ("sys/class/thermal/thermal_zone3/temp", "50000"),
            ("sys/class/thermal/cooling_device0/type", "pwm-fan"),
            ("sys/class/thermal/cooling_device0/cur_state", "3"),
            ("sys/class/thermal/cooling_device1/type", "gpu-throttle-alert"),
            ("sys/class/thermal/cooling_device1/cur_state", "1"),
            ("sys/class/thermal/cooling_device2/type", "cpu-throttle-alert"),
            ("sys/class/thermal/cooling_device2/cur_state", "0"),
            ("sys/class/devfreq/17000000.gpu/cur_freq", "612000000"),
            ("sys/class/devfreq/17000000.gpu/max_freq", "1300500000"),
            ("sys/class/devfreq/15340000.vic/cur_freq", "115200000"),
            ("var/lib/nvpmodel/status", "pmode:0002"),
            ("proc/meminfo", "MemTotal:       64 kB\nMemFree:  1 kB\nMemAvailable:   32 kB"),
            ("sys/block/mmcblk0/device/life_time", "0x01 0x03"),
            ("sys/block/mmcblk1/device/life_time", "0x00 0x00"),
            ("sys/block/nvme0n1/device/life_time", "0x05 0x05"),
            ("run/systemd/timesync/synchronized", ""),
        ]);
        assert_eq!(
            page(machine),
            [
                r#"sam2d_temperature_celsius{zone="cpu-thermal"} 48.25"#,
                r#"sam2d_temperature_celsius{zone="tj-thermal"} 51.0"#,
                r#"sam2d_throttling{device="cpu-throttle-alert"} 0.0"#,
                r#"sam2d_throttling{device="gpu-throttle-alert"} 1.0"#,
                r#"sam2d_gpu_clock_hertz{gpu="17000000.gpu",limit="now"} 612000000.0"#,
                r#"sam2d_gpu_clock_hertz{gpu="17000000.gpu",limit="most"} 1300500000.0"#,
                r#"sam2d_power_mode{by="nvpmodel"} 2.0"#,
                r#"sam2d_memory_bytes{kind="available"} 32768.0"#,
                r#"sam2d_memory_bytes{kind="total"} 65536.0"#,
                r#"sam2d_emmc_life_used{disk="mmcblk0"} 0.3"#,
                r#"sam2d_clock{is="plausible"} 1.0"#,
                r#"sam2d_clock{is="synchronised"} 1.0"#,
            ]
        );
    }

    #[test]
    fn what_a_card_told_stands_beside_what_the_kernel_tells() {
        let (_root, mut machine) = machine(&[
            ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp"),
            ("sys/class/thermal/thermal_zone0/temp", "60000"),
        ]);
        let whole = Card {
            name: "nvidia0".to_owned(),
            celsius: Some(41.0),
            slowed_by: vec![("thermal", false), ("power-cap", true)],
            hertz: vec![("now", 1.41e9), ("most", 1.98e9)],
            watts: vec![("now", 212.5)],
            bytes: vec![("used", 5e9), ("total", 8e10)],
        };
        let silent = Card { name: "nvidia1".to_owned(), ..Card::default() };
        machine.cards = Cards::said(Instant::now(), vec![whole, silent]);
        let expected = [
            r#"sam2d_temperature_celsius{zone="nvidia0"} 41.0"#,
            r#"sam2d_temperature_celsius{zone="x86_pkg_temp"} 60.0"#,
            r#"sam2d_throttling{device="nvidia0-power-cap"} 1.0"#,
            r#"sam2d_throttling{device="nvidia0-thermal"} 0.0"#,
            r#"sam2d_gpu_clock_hertz{gpu="nvidia0",limit="now"} 1410000000.0"#,
            r#"sam2d_gpu_clock_hertz{gpu="nvidia0",limit="most"} 1980000000.0"#,
            r#"sam2d_gpu_power_watts{gpu="nvidia0",limit="now"} 212.5"#,
            r#"sam2d_gpu_memory_bytes{gpu="nvidia0",kind="used"} 5000000000.0"#,
            r#"sam2d_gpu_memory_bytes{gpu="nvidia0",kind="total"} 80000000000.0"#,
        ];
        let page = page(machine);
        assert_eq!(page.get(..expected.len()), Some(&expected.map(str::to_owned)[..]));
    }

    #[test]
    fn what_a_machine_does_not_have_is_left_out_and_what_makes_no_sense_too() {
        let (_root, machine) = machine(&[
            ("sys/class/thermal/thermal_zone0/type", "acpitz"),
            ("sys/class/thermal/thermal_zone1/temp", "40000"),
            ("sys/class/thermal/thermal_zone2/type", "odd"),
            ("sys/class/thermal/thermal_zone2/temp", "warm"),
            ("sys/block/mmcblk0/device/life_time", "0x0c 5 worn"),
            ("var/lib/nvpmodel/status", "no mode"),
            ("proc/meminfo", "MemTotal: many"),
        ]);
        let expected =
            [r#"sam2d_clock{is="plausible"} 1.0"#, r#"sam2d_clock{is="synchronised"} 0.0"#];
        assert_eq!(page(machine), expected);
    }

    #[test]
    fn free_space_is_that_of_the_folders_disk_as_df_tells_it() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::here(vec![
            ("cache", folder.path().to_owned()),
            ("nowhere", "/there/is/no/such/folder".into()),
        ]);
        let free = machine.free();
        let mut df = std::process::Command::new("df");
        df.args(["-B1", "--output=avail"]).arg(folder.path());
        let told = df.output().unwrap().stdout;
        let told: f64 =
            String::from_utf8(told).unwrap().lines().last().unwrap().trim().parse().unwrap();
        assert_eq!(free.keys().collect::<Vec<_>>(), ["cache"]);
        // Others write to the disk meanwhile.
        assert!((free["cache"] - told).abs() < 4e9, "{free:?} {told}");
    }
}
