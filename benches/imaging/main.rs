//! Times of the imaging room alone: bytes → encoder tensor, and logits → answer. `run.py` beside it
//! runs it and the Python stack on the same inputs, in one go.
//!
//! ```text
//! tensor SIDE RUNS inline|CHILD_BINARY FILE…     decode, window, render, stretch, normalise
//! answer RUNS LOGITS.f32 SIDE WIDTH HEIGHT       upsample, clean, PNG, outline, bounding box
//! ```
//! One JSON object a line: microseconds per stage and in all, the best of the runs (what the work
//! costs) and the median (what it took here, other programs included).

use anyhow::{Context as _, bail};
use sam2d::domain::mask::ImageType;
use sam2d::domain::slice::Size;
use sam2d::imaging::decode::{Limits, decode};
use sam2d::imaging::decoder::{Decoder, Options};
use sam2d::imaging::postprocess::{self, Clean};
use sam2d::imaging::{outline, png, preprocess, window};
use std::hint::black_box;
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tensor", side, runs, how, files @ ..] => tensor(side.parse()?, runs.parse()?, how, files),
        ["answer", runs, logits, side, width, height] => {
            let size = Size { width: width.parse()?, height: height.parse()? };
            answer(runs.parse()?, logits, side.parse()?, size)
        }
        [] => {
            println!("nothing to time; see benches/imaging/run.py");
            Ok(())
        }
        _ => bail!("tensor SIDE RUNS inline|CHILD FILE… or answer RUNS LOGITS SIDE WIDTH HEIGHT"),
    }
}

fn tensor(side: usize, runs: usize, how: &str, files: &[&str]) -> anyhow::Result<()> {
    let decoder = match how {
        "inline" => None,
        child => {
            let executable = Some(child.into());
            Some(Decoder::start(Options { executable, workers: 1, ..Options::default() })?)
        }
    };
    for file in files {
        let bytes = std::fs::read(file)?;
        let mut laps = Laps::new(["decode", "render", "tensor"]);
        for _ in 0..runs {
            if let Some(decoder) = &decoder {
                // A daemon's next image finds a child ready; here the last one was spent just now.
                while decoder.vitals().ready == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
            laps.start();
            let slice = match &decoder {
                Some(decoder) => decoder.decode(&bytes, None)?,
                None => decode(&bytes, None, &Limits::default())?,
            };
            laps.lap();
            let (rendering, _) = window::resolve(slice.info(), None, ImageType::Middle)?;
            let levels = window::render(&slice, &rendering);
            laps.lap();
            let tensor = preprocess::tensor(&levels, slice.size(), side).context("a tensor")?;
            laps.lap();
            black_box(tensor);
        }
        laps.print(file);
    }
    Ok(())
}

fn answer(runs: usize, logits: &str, side: usize, size: Size) -> anyhow::Result<()> {
    let values: Vec<f32> =
        std::fs::read(logits)?.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let clean = Clean::DropSmall {
        inside: Vec::new(),
        outside: Vec::new(),
        options: postprocess::Options::default(),
    };
    let mut laps = Laps::new(["threshold", "clean", "png", "outline", "box"]);
    for _ in 0..runs {
        laps.start();
        let mask = postprocess::threshold(&values, side, size).context("a mask")?;
        laps.lap();
        let mask = postprocess::clean(mask, &clean);
        laps.lap();
        let file = png::encode_mask(&mask);
        laps.lap();
        let polygons = outline::polygons(&mask);
        laps.lap();
        let bounds = mask.bounding_box();
        laps.lap();
        black_box((file, polygons, bounds));
    }
    laps.print(logits);
    Ok(())
}

/// Times of every run, stage by stage.
struct Laps<const N: usize> {
    names: [&'static str; N],
    stages: [Vec<f64>; N],
    totals: Vec<f64>,
    began: Instant,
    last: Instant,
    at: usize,
}

impl<const N: usize> Laps<N> {
    fn new(names: [&'static str; N]) -> Self {
        let now = Instant::now();
        let stages = std::array::from_fn(|_| Vec::new());
        Self { names, stages, totals: Vec::new(), began: now, last: now, at: 0 }
    }

    fn start(&mut self) {
        self.began = Instant::now();
        self.last = self.began;
        self.at = 0;
    }

    fn lap(&mut self) {
        let now = Instant::now();
        if let Some(stage) = self.stages.get_mut(self.at) {
            stage.push((now - self.last).as_secs_f64() * 1e6);
        }
        self.last = now;
        self.at += 1;
        if self.at == N {
            self.totals.push((now - self.began).as_secs_f64() * 1e6);
        }
    }

    fn print(&mut self, file: &str) {
        let mut line = serde_json::Map::new();
        line.insert("input".into(), file.into());
        for (name, times) in self.names.iter().zip(&mut self.stages) {
            line.insert(format!("{name}_us"), best(times).into());
        }
        line.insert("median_us".into(), median(&mut self.totals).into());
        line.insert("best_us".into(), best(&self.totals).into());
        println!("{}", serde_json::Value::Object(line));
    }
}

fn best(times: &[f64]) -> f64 {
    rounded(times.iter().copied().fold(f64::INFINITY, f64::min))
}

fn rounded(time: f64) -> f64 {
    (time * 10.0).round() / 10.0
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().map_or(0.0, rounded)
}
