//! What the integration tests share: services on the tiny seeded engine, and files made in code.

pub(crate) mod daemon;
pub(crate) mod dicom;
pub(crate) mod engine;
pub(crate) mod wire;

use engine::{Orders, load_obedient};
use sam2d::cache::{Cache, Clock};
use sam2d::domain::mask::{ImageType, Target};
use sam2d::domain::prompt::{Click, ClickLabel};
use sam2d::engine::worker::{Engine, Hooks, LoadError, Loaded};
use sam2d::imaging::decoder::{self, Decoder};
use sam2d::service::options::Options;
use sam2d::service::request::{ImageRequest, ImageSource, SegmentRequest};
use sam2d::service::{Parts, Service};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The tiny engine with random weights, 128 px, four masks.
pub(crate) fn seeded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engines/seeded-m4")
}

/// How a test's service differs from the usual one.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    pub(crate) options: Options,
    pub(crate) cache: Option<&'a Path>,
    pub(crate) inbox: Option<&'a Path>,
}

/// A test that can't run here says so; `./test` lists it at the end.
pub(crate) fn skip(name: &str, reason: &str) {
    use std::io::Write as _;
    eprintln!("skipped {name}: {reason}");
    if let Some(list) = std::env::var_os("SAM2D_SKIPS") {
        let mut list = std::fs::File::options().append(true).create(true).open(list).unwrap();
        writeln!(list, "{name}: {reason}").unwrap();
    }
}

/// A service whose engine comes from `load`, settled.
pub(crate) async fn service(
    setup: Setup<'_>,
    load: impl FnMut() -> Result<Loaded, LoadError> + Send + 'static,
) -> Service {
    let service = unsettled(setup, load);
    service.engine().settled().await;
    service
}

/// The same, whose engine is still being loaded. Within a runtime.
pub(crate) fn unsettled(
    setup: Setup<'_>,
    load: impl FnMut() -> Result<Loaded, LoadError> + Send + 'static,
) -> Service {
    let options = sam2d::engine::Options { retry_first_s: 3600, ..Default::default() };
    let engine = Engine::start((&options).into(), Hooks::new(load)).unwrap();
    let decoder = decoder::Options {
        executable: Some(env!("CARGO_BIN_EXE_sam2d").into()),
        workers: 2,
        ..decoder::Options::default()
    };
    let cache = setup.cache.map(|dir| {
        let options = sam2d::cache::Options { dir: Some(dir.to_owned()), ..Default::default() };
        Cache::open(options, Clock::system()).unwrap()
    });
    Service::new(Parts {
        options: setup.options,
        engine,
        decoder: Decoder::start(decoder).unwrap(),
        cache,
        inbox: setup.inbox,
        max_image_bytes: 1 << 20,
        lifetime: Duration::from_secs(24 * 3600),
    })
    .unwrap()
}

/// A service whose engine does what it is told, and where to tell it.
pub(crate) async fn obedient() -> (Service, Arc<Orders>) {
    let orders = Arc::new(Orders::default());
    let told = Arc::clone(&orders);
    (service(Setup::default(), move || load_obedient(&told)).await, orders)
}

pub(crate) fn click(x: f64, y: f64) -> Click {
    Click { x, y, label: ClickLabel::Inside }
}

pub(crate) fn image(source: ImageSource) -> ImageRequest {
    ImageRequest { source, frame: None, window: None, image_type: ImageType::Auto }
}

/// One click on an image, 30 s to go.
pub(crate) fn one_click(bytes: &[u8], x: f64, y: f64) -> SegmentRequest {
    SegmentRequest {
        image: image(ImageSource::Bytes(bytes.to_vec().into())),
        clicks: vec![click(x, y)],
        bounds: None,
        target: Target::Muscle,
        mask_input: None,
        prompt_from: None,
        deadline: Instant::now() + Duration::from_secs(30),
    }
}

/// A grey 8-bit PNG of a bright disc on a dark ground.
pub(crate) fn disc_png(width: u32, height: u32) -> Vec<u8> {
    let (cx, cy, r) = (f64::from(width) / 2.0, f64::from(height) / 2.0, f64::from(height) / 4.0);
    let level = |x: u32, y: u32| {
        let inside = (f64::from(x) - cx).hypot(f64::from(y) - cy) < r;
        if inside { 200 } else { 30 + u8::try_from((x + y) % 16).unwrap() }
    };
    let levels: Vec<u8> = (0..height).flat_map(|y| (0..width).map(move |x| level(x, y))).collect();
    sam2d::imaging::png::encode_grey(&levels, sam2d::domain::slice::Size { width, height })
}
