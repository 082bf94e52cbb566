//! What the daemon tells of NVIDIA cards, against libraries that stand in for the driver's.

use crate::support::daemon::{Daemon, done, sam2d};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A `libnvidia-ml.so.1`: two cards of which the second tells nothing. Which call fails, and how, is the word
/// in the file that the environment names; types and numbers are those of NVIDIA's `nvml.h`.
const LIBRARY: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
static int trouble(const char *kind) {
    char word[64] = "";
    FILE *file = fopen(getenv("STAND_IN"), "r");
    if (!fgets(word, sizeof word, file)) word[0] = 0;
    fclose(file);
    return !strcmp(word, kind);
}
static int of(void *card) {
    if (trouble("hangs")) pause();
    return card == (void *)2 ? 3 /* not supported */ : trouble("lost") ? 15 : 0;
}
int nvmlInit_v2(void) { return trouble("no driver") ? 9 : 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { strncpy(text, "580.95.05", length); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return trouble("unknown code") ? 4711 : 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) { *card = (void *)(1ul + index); return 0; }
int nvmlDeviceGetIndex(void *card, unsigned *index) { *index = card == (void *)2; return 0; }
int nvmlDeviceGetMinorNumber(void *card, unsigned *number) { *number = card == (void *)2 ? 5 : 3; return 0; }
int nvmlDeviceGetName(void *card, char *text, unsigned length) { strncpy(text, "NVIDIA Stand-in", length); return of(card); }
int nvmlDeviceGetTemperature(void *card, int sensor, unsigned *value) { *value = sensor ? 0 : 61; return of(card); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *card, unsigned long long *bits) { *bits = 0x40 | 0x4; return of(card); }
int nvmlDeviceGetClockInfo(void *card, int which, unsigned *mega) { *mega = which == 1 ? 1410 : 1; return of(card); }
int nvmlDeviceGetMaxClockInfo(void *card, int which, unsigned *mega) { *mega = which == 1 ? 1980 : 1; return of(card); }
int nvmlDeviceGetPowerUsage(void *card, unsigned *milli) { *milli = 212500; return of(card); }
int nvmlDeviceGetEnforcedPowerLimit(void *card, unsigned *milli) { *milli = 700000; return of(card); }
int nvmlDeviceGetMemoryInfo_v2(void *card, memory *m) {
    if (m->version != (sizeof(memory) | 2u << 24)) return 25;
    m->total = 80000; m->used = 5000; m->free = 74000; m->reserved = 1000; return of(card);
}
"#;

/// A home with the library in it, and `sam2d` that finds it there.
struct Site {
    home: TempDir,
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("nvml.c");
        std::fs::write(&source, LIBRARY).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(home.path().join("libnvidia-ml.so.1")).arg(source);
        assert!(cc.status().unwrap().success());
        Self { home }
    }

    fn trouble(&self, word: &str) {
        std::fs::write(self.home.path().join("trouble"), word).unwrap();
    }

    fn sam2d(&self) -> Command {
        let home = self.home.path();
        let mut command = sam2d(home);
        command.env("LD_LIBRARY_PATH", home).env("STAND_IN", home.join("trouble"));
        command
    }

    fn start(&self) -> Daemon {
        Daemon::start_logging(&mut self.sam2d(), &self.home.path().join("log"))
    }
}

/// The daemon's page, once it tells of a card or when that time is over.
fn page(daemon: &Daemon, patience: Duration) -> String {
    let until = Instant::now() + patience;
    loop {
        let asked = Instant::now();
        let page = daemon.get("/metrics").text();
        assert!(asked.elapsed() < Duration::from_secs(2), "a scrape waited for a card");
        if page.contains("nvidia") || Instant::now() > until {
            return page;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Long enough for two looks at the cards.
const TWO_LOOKS: Duration = Duration::from_secs(30);

fn of_cards(page: &str) -> Vec<&str> {
    page.lines().filter(|line| line.contains("nvidia")).collect()
}

#[test]
fn a_card_s_temperature_clock_power_memory_and_what_slows_it_are_told() {
    let site = Site::new();
    site.trouble("");
    let daemon = site.start();
    assert_eq!(
        of_cards(&page(&daemon, TWO_LOOKS)),
        [
            r#"sam2d_temperature_celsius{zone="nvidia3"} 61.0"#,
            r#"sam2d_throttling{device="nvidia3-hardware"} 0.0"#,
            r#"sam2d_throttling{device="nvidia3-power-cap"} 1.0"#,
            r#"sam2d_throttling{device="nvidia3-thermal"} 1.0"#,
            r#"sam2d_gpu_clock_hertz{gpu="nvidia3",limit="now"} 1410000000.0"#,
            r#"sam2d_gpu_clock_hertz{gpu="nvidia3",limit="most"} 1980000000.0"#,
            r#"sam2d_gpu_power_watts{gpu="nvidia3",limit="now"} 212.5"#,
            r#"sam2d_gpu_power_watts{gpu="nvidia3",limit="most"} 700.0"#,
            r#"sam2d_gpu_memory_bytes{gpu="nvidia3",kind="used"} 5000.0"#,
            r#"sam2d_gpu_memory_bytes{gpu="nvidia3",kind="free"} 74000.0"#,
            r#"sam2d_gpu_memory_bytes{gpu="nvidia3",kind="total"} 80000.0"#,
        ]
    );
}

#[test]
fn cards_that_fail_or_hang_cost_their_own_figures_and_no_more() {
    for trouble in ["no driver", "unknown code", "lost", "hangs"] {
        let site = Site::new();
        site.trouble(trouble);
        let daemon = site.start();
        let page = page(&daemon, Duration::from_secs(2));
        assert_eq!(of_cards(&page), [""; 0], "{trouble}");
        assert!(page.contains("sam2d_memory_bytes{kind=\"total\"}"), "{trouble}");
        let log = std::fs::read_to_string(site.home.path().join("log")).unwrap();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{trouble}: {log}");
    }
}

#[test]
fn a_driver_that_was_put_right_is_found_without_a_restart() {
    let site = Site::new();
    site.trouble("no driver");
    let daemon = site.start();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(of_cards(&daemon.get("/metrics").text()), [""; 0]);
    site.trouble("");
    assert_ne!(of_cards(&page(&daemon, TWO_LOOKS)), [""; 0]);
}

#[test]
fn doctor_says_which_cards_are_told_of_and_that_none_is_no_fault() {
    let site = Site::new();
    let doctor = |trouble: &str| {
        site.trouble(trouble);
        String::from_utf8(site.sam2d().arg("doctor").output().unwrap().stdout).unwrap()
    };
    let whole = doctor("");
    let told = "[fine   ] NVML of driver 580.95.05 tells of nvidia3 (NVIDIA Stand-in): /metrics";
    assert!(whole.contains(told), "{whole}");
    let failing = doctor("no driver");
    assert!(failing.contains("[fine   ] the management library of NVIDIA's driver"), "{failing}");
    // Whether this machine has a card is its own business.
    let bare = String::from_utf8(done(site.home.path(), &["doctor"]).stdout).unwrap();
    assert!(bare.contains("libnvidia-ml.so.1") || bare.contains("NVML of driver"), "{bare}");
}
