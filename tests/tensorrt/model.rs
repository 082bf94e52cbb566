//! The other end of a stand-in plan: the CPU engine's small model answers over a socket, and does
//! what a test tells it.

use sam2d::domain::tensor::{HostEmbedding, ImageTensor, PointLabel, PointRow, PromptBatch};
use sam2d::engine::Backend;
use sam2d::engine::cpu::CpuBackend;
use sam2d::engine::package::Package;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// The tiny engine with random weights.
pub(crate) fn seeded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engines/seeded-m4")
}

pub(crate) fn cpu() -> CpuBackend {
    CpuBackend::load(&Package::load(&seeded()).unwrap(), 1).unwrap()
}

/// What to do instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    Answer,
    /// `enqueueV3` fails.
    Fail,
    /// `enqueueV3` lacks memory.
    OutOfMemory,
    /// One value of every output is NaN.
    Nan,
    /// Predicted IoU is 7.
    Iou,
    /// Predicted IoU is −0.2.
    NegativeIou,
    /// The last value of every output is infinite.
    Infinity,
    /// Don't come back until told otherwise.
    Hang,
}

#[derive(Default)]
pub(crate) struct Orders {
    encoder: AtomicU8,
    decoder: AtomicU8,
    /// Inferences so far.
    pub(crate) inferences: AtomicU32,
}

impl Orders {
    pub(crate) fn encoder(&self, order: Order) {
        self.encoder.store(order as u8, Ordering::SeqCst);
    }

    pub(crate) fn decoder(&self, order: Order) {
        self.decoder.store(order as u8, Ordering::SeqCst);
    }
}

/// A running model; its threads end with the test process.
pub(crate) struct Model {
    pub(crate) socket: PathBuf,
    pub(crate) orders: Arc<Orders>,
}

impl Model {
    pub(crate) fn start(folder: &Path) -> Self {
        let socket = folder.join("model");
        let listener = UnixListener::bind(&socket).unwrap();
        let orders = Arc::<Orders>::default();
        let (shared, backend) = (Arc::clone(&orders), Arc::new(Mutex::new(cpu())));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (orders, backend) = (Arc::clone(&shared), Arc::clone(&backend));
                // A client that is killed ends its connection in the middle: no panic to print.
                std::thread::spawn(move || serve(stream, &orders, &backend));
            }
        });
        Self { socket, orders }
    }
}

fn serve(mut stream: UnixStream, orders: &Orders, backend: &Mutex<CpuBackend>) -> Option<()> {
    let order = |which: &AtomicU8| which.load(Ordering::SeqCst);
    match take::<1>(&mut stream)?[0] {
        b'R' => {
            let outputs = infer(&mut stream, orders, backend)?;
            loop {
                let name = name(&mut stream)?;
                if name.is_empty() {
                    return Some(());
                }
                let count = number(&mut stream)?;
                let values = &outputs[name.as_str()];
                assert_eq!(values.len(), count, "{name}");
                stream.write_all(bytemuck::cast_slice(values)).ok()?;
            }
        }
        stage => {
            let told = order(if stage == b'E' { &orders.encoder } else { &orders.decoder });
            let code = match told {
                told if told == Order::Fail as u8 => 7,
                told if told == Order::OutOfMemory as u8 => 5,
                _ => 0,
            };
            stream.write_all(&[code]).ok()
        }
    }
}

type Values = HashMap<String, Vec<f32>>;

fn infer(stream: &mut UnixStream, orders: &Orders, backend: &Mutex<CpuBackend>) -> Option<Values> {
    let mut inputs: HashMap<String, (Vec<usize>, Vec<f32>)> = HashMap::new();
    for _ in 0..number(stream)? {
        let name = name(stream)?;
        let dims: Vec<usize> =
            (0..number(stream)?).map(|_| number(stream)).collect::<Option<_>>()?;
        let mut values = vec![0_f32; dims.iter().product()];
        stream.read_exact(bytemuck::cast_slice_mut(&mut values)).ok()?;
        inputs.insert(name, (dims, values));
    }
    orders.inferences.fetch_add(1, Ordering::SeqCst);
    let is_encoder = inputs.contains_key("image");
    let which = if is_encoder { &orders.encoder } else { &orders.decoder };
    let told = which.load(Ordering::SeqCst);
    while which.load(Ordering::SeqCst) == Order::Hang as u8 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut backend = backend.lock().unwrap();
    let mut outputs =
        if is_encoder { encode(&mut backend, &inputs) } else { decode(&mut backend, &inputs) };
    if told == Order::Nan as u8 {
        outputs.values_mut().for_each(|values| values[0] = f32::NAN);
    }
    if told == Order::Iou as u8 {
        outputs.get_mut("iou_predictions").unwrap()[2] = 7.0;
    }
    if told == Order::NegativeIou as u8 {
        outputs.get_mut("iou_predictions").unwrap()[3] = -0.2;
    }
    if told == Order::Infinity as u8 {
        outputs.values_mut().for_each(|values| *values.last_mut().unwrap() = f32::NEG_INFINITY);
    }
    Some(outputs)
}

type Inputs = HashMap<String, (Vec<usize>, Vec<f32>)>;

fn encode(backend: &mut CpuBackend, inputs: &Inputs) -> Values {
    let (dims, values) = &inputs["image"];
    let image = ImageTensor::new(dims[2], values.clone()).unwrap();
    let embedding = backend.encode(&image).unwrap();
    let HostEmbedding { high_res_feats_0, high_res_feats_1, image_embed } =
        backend.download(&embedding).unwrap();
    HashMap::from([
        ("high_res_feats_0".to_owned(), high_res_feats_0),
        ("high_res_feats_1".to_owned(), high_res_feats_1),
        ("image_embed".to_owned(), image_embed),
    ])
}

fn decode(backend: &mut CpuBackend, inputs: &Inputs) -> Values {
    let values = |name: &str| inputs[name].1.clone();
    let embedding = HostEmbedding {
        high_res_feats_0: values("high_res_feats_0"),
        high_res_feats_1: values("high_res_feats_1"),
        image_embed: values("image_embed"),
    };
    let embedding = backend.upload(&embedding).unwrap();
    let (dims, coords) = &inputs["point_coords"];
    let (batch, points) = (dims[0], dims[1]);
    let labels = values("point_labels");
    let (mask, mut has_mask) = (values("mask_input"), values("has_mask_input"));
    if has_mask.len() == 1 {
        // Exports that have one flag for all.
        has_mask.resize(batch, has_mask[0]);
    }
    assert_eq!((labels.len(), has_mask.len()), (batch * points, batch));
    let plane = mask.len() / batch;
    let (mut masks, mut ious, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for prompt in 0..batch {
        let rows = (prompt * points..(prompt + 1) * points).map(|row| PointRow {
            x: coords[2 * row],
            y: coords[2 * row + 1],
            label: label(labels[row]),
        });
        let refined = &mask[prompt * plane..(prompt + 1) * plane];
        assert!(has_mask[prompt] == 1.0 || refined.iter().all(|logit| *logit == 0.0));
        let refined = (has_mask[prompt] == 1.0).then(|| Arc::from(refined));
        let one = backend.decode(&embedding, &PromptBatch::one(rows.collect(), refined)).unwrap();
        masks.extend(one.logits);
        ious.extend(one.iou_predictions);
        scores.extend(one.object_score_logits.unwrap_or_default());
    }
    HashMap::from([
        ("masks".to_owned(), masks),
        ("iou_predictions".to_owned(), ious),
        ("object_score_logits".to_owned(), scores),
    ])
}

fn label(value: f32) -> PointLabel {
    let all = [
        PointLabel::Padding,
        PointLabel::Outside,
        PointLabel::Inside,
        PointLabel::BoxStart,
        PointLabel::BoxEnd,
    ];
    all.into_iter().find(|label| label.value() == value).unwrap()
}

fn take<const N: usize>(stream: &mut UnixStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn number(stream: &mut UnixStream) -> Option<usize> {
    take::<4>(stream).map(|bytes| u32::from_le_bytes(bytes) as usize)
}

fn name(stream: &mut UnixStream) -> Option<String> {
    let bytes = take::<32>(stream)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(32);
    Some(String::from_utf8(bytes[..end].to_vec()).unwrap())
}
