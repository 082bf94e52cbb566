//! The keys under `[segment]`: limits with their reasons, and the one-click profiles.

use super::keys;
use crate::domain::key::Sum;
use crate::domain::mask::{ImageType, Target};
use crate::imaging::postprocess;
use serde::{Deserialize, Serialize};

/// `[segment]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Most clicks in one prompt. 64 clicks and a box are the 66 rows that plans are built for.
    pub max_clicks: usize,
    /// Below this confidence an answer carries a warning.
    pub low_confidence: f64,
    /// While the first engine of a run is being loaded, a request waits for it so long before it is
    /// refused: after a restart nobody is sent away for a second. Those who look at a screen wait no
    /// longer than this gladly.
    pub loading_wait_s: u64,
    /// Memory for embeddings, host or device; one of SAM2.1 is 16 MiB, so this keeps the last 32.
    pub embeddings_bytes: u64,
    /// Memory for the answers of the last minutes, so that they can be refined and fetched even
    /// where no disk cache can be written.
    pub recent_answers_bytes: u64,
    /// Memory for what is known of images (size, window, body region): about 1 kB each.
    pub known_images_bytes: u64,
    /// Mask clean-up.
    pub clean: postprocess::Options,
    /// What one click without a prompt looks for.
    pub profiles: Profiles,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_clicks: 64,
            low_confidence: 0.5,
            loading_wait_s: 10,
            embeddings_bytes: 512 << 20,
            recent_answers_bytes: 64 << 20,
            known_images_bytes: 16 << 20,
            clean: postprocess::Options::default(),
            profiles: Profiles::default(),
        }
    }
}

impl Options {
    /// What is wrong with these keys, in words that say what to write; empty when nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        // Two rows of a prompt are a box's corners; plans are built for 66.
        if !(1..=64).contains(&self.max_clicks) {
            faults.push("segment.max_clicks must be 1 to 64".to_owned());
        }
        if !(0.0..=1.0).contains(&self.low_confidence) {
            faults.push("segment.low_confidence must be 0 to 1".to_owned());
        }
        let profiles = &self.profiles;
        for (name, profile) in [
            ("l3", &profiles.l3),
            ("psoas", &profiles.psoas),
            ("muscle", &profiles.muscle),
            ("auto", &profiles.auto),
        ] {
            let wrong = profile.fault().map(|what| format!("segment.profiles.{name}.{what}"));
            faults.extend(wrong);
        }
        faults
    }
}

/// Options as a request finds them.
pub(super) struct InForce {
    pub(super) options: Options,
    /// What is in the keys of answers, of each profile: summed once, not for every answer.
    l3: Sum,
    psoas: Sum,
    muscle: Sum,
    auto: Sum,
}

impl InForce {
    pub(super) fn new(options: Options) -> Self {
        let of = |profile| keys::settings(profile, &options.clean);
        let Profiles { l3, psoas, muscle, auto } = &options.profiles;
        Self { l3: of(l3), psoas: of(psoas), muscle: of(muscle), auto: of(auto), options }
    }

    /// The profile that chooses when the prompt is empty, and what it is in an answer's key.
    pub(super) fn profile(&self, image_type: ImageType, target: Target) -> (&Profile, Sum) {
        let profiles = &self.options.profiles;
        match (image_type, target) {
            (ImageType::L3, _) => (&profiles.l3, self.l3),
            (ImageType::Middle, Target::Psoas) => (&profiles.psoas, self.psoas),
            (ImageType::Middle, Target::Muscle) => (&profiles.muscle, self.muscle),
            (ImageType::Auto, _) => (&profiles.auto, self.auto),
        }
    }
}

impl Profile {
    fn fault(&self) -> Option<&'static str> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let [left, top, right, bottom] = self.region;
        if !(1..=64).contains(&self.prompts) {
            Some("prompts must be 1 to 64")
        } else if !self.region.iter().all(|&side| share(side)) || left >= right || top >= bottom {
            Some("region must be left, top, right, bottom within 0 to 1, and not empty")
        } else if ![self.min_iou, self.min_stability, self.min_agreement].into_iter().all(share) {
            Some("min_iou, min_stability and min_agreement must be 0 to 1")
        } else if !share(self.min_area) || !share(self.max_area) || self.min_area > self.max_area {
            Some("min_area and max_area must be 0 to 1, in this order")
        } else if !(self.stability_delta >= 0.0 && self.stability_delta.is_finite()) {
            Some("stability_delta must not be negative")
        } else if !(self.typical_area > 0.0 && self.area_spread > 0.0 && self.center_spread > 0.0) {
            Some("typical_area, area_spread and center_spread must be above 0")
        } else if !(1..=8).contains(&self.parts) {
            Some("parts must be 1 to 8")
        } else {
            None
        }
    }
}

/// One profile per context and target.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profiles {
    /// `L3`: a vertebral body near the middle of the lumbar column of a mid-sagittal picture.
    pub l3: Profile,
    /// `middle`, target `psoas`: the two psoas muscles beside the vertebra.
    pub psoas: Profile,
    /// `middle`, target `muscle`: all muscle.
    pub muscle: Profile,
    /// `auto`: whatever stands out.
    pub auto: Profile,
}

impl Default for Profiles {
    fn default() -> Self {
        let auto = Profile::default();
        Self {
            l3: Profile {
                region: [0.25, 0.3, 0.9, 0.9],
                min_iou: 0.55,
                stability_delta: 0.5,
                min_area: 0.004,
                max_area: 0.05,
                min_agreement: 0.5,
                typical_area: 0.015,
                area_spread: 0.4,
                center: [0.58, 0.42],
                center_spread: 0.12,
                ..auto.clone()
            },
            psoas: Profile {
                region: [0.25, 0.3, 0.75, 0.85],
                min_iou: 0.65,
                min_stability: 0.8,
                stability_delta: 1.0,
                min_area: 0.004,
                max_area: 0.03,
                min_agreement: 0.3,
                typical_area: 0.009,
                area_spread: 0.4,
                center: [0.5, 0.6],
                center_spread: 0.08,
                parts: 2,
                ..auto.clone()
            },
            muscle: Profile {
                region: [0.1, 0.3, 0.9, 1.0],
                min_iou: 0.5,
                min_stability: 0.8,
                stability_delta: 1.0,
                min_area: 0.01,
                max_area: 0.4,
                min_agreement: 0.6,
                typical_area: 0.08,
                area_spread: 0.6,
                center: [0.5, 0.75],
                center_spread: 0.4,
                parts: 2,
                ..auto.clone()
            },
            auto,
        }
    }
}

/// How one click chooses among the masks that a grid of prompts gives. Places are shares of the
/// body's bounding box (0 left or top, 1 right or bottom), areas shares of the body's area.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Most prompts per image, 1..=64: what the CPU engine does in about a second.
    pub prompts: usize,
    /// Where prompts are put: left, top, right, bottom.
    pub region: [f64; 4],
    /// Masks of a lower predicted IoU are dropped.
    pub min_iou: f64,
    /// Masks whose stability is lower are dropped: the area above `stability_delta` logits as a
    /// share of the area above minus that.
    pub min_stability: f64,
    /// See `min_stability`. SAM's automatic mask generator takes 1 on 256 × 256 logits; masks of
    /// small engines have softer edges on a coarser grid.
    pub stability_delta: f64,
    /// Smaller masks are dropped.
    pub min_area: f64,
    /// Larger masks are dropped.
    pub max_area: f64,
    /// Share of the prompts inside a mask that must give the same mask again.
    pub min_agreement: f64,
    /// Size looked for; masks rank lower the more they differ (log-normal).
    pub typical_area: f64,
    /// Width of that preference, in natural logarithms.
    pub area_spread: f64,
    /// Place looked for.
    pub center: [f64; 2],
    /// Width of that preference; large values switch it off.
    pub center_spread: f64,
    /// The union of up to this many masks is the answer (left and right).
    pub parts: usize,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            prompts: 64,
            region: [0.0, 0.0, 1.0, 1.0],
            min_iou: 0.55,
            min_stability: 0.7,
            stability_delta: 0.25,
            min_area: 0.004,
            max_area: 0.5,
            min_agreement: 0.4,
            typical_area: 0.08,
            area_spread: 1.0,
            center: [0.5, 0.5],
            center_spread: 0.3,
            parts: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_context_is_in_an_answers_key_by_its_own_profile() {
        let in_force = InForce::new(Options::default());
        let mut seen = std::collections::BTreeSet::new();
        for image_type in [ImageType::L3, ImageType::Middle, ImageType::Auto] {
            for target in [Target::Psoas, Target::Muscle] {
                let (profile, settings) = in_force.profile(image_type, target);
                assert_eq!(settings, keys::settings(profile, &in_force.options.clean));
                seen.insert(settings);
            }
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn the_defaults_have_no_faults_and_wrong_values_are_named() {
        assert_eq!(Options::default().faults(), Vec::<String>::new());
        let mut options = Options { max_clicks: 65, ..Options::default() };
        options.profiles.l3.region = [0.5, 0.0, 0.5, 1.0];
        options.profiles.auto.min_iou = f64::NAN;
        let faults = options.faults();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults.iter().any(|fault| fault.starts_with("segment.profiles.l3.region")));
    }
}
