//! The image encoder.
//!
//! Its shape is fixed, so its memory is bound once, and from its third call on it runs as a recorded
//! graph, where that is allowed and the plan can be recorded; outputs are the same. Invariant: what
//! [`Encoder::run`] wrote is finite, or it fails.

use super::{Features, SessionError, Trouble, expect_features, fits_in_memory, same, settled};
use crate::domain::tensor::ImageTensor;
use crate::engine::BackendError;
use crate::engine::contract::{IMAGE, bad_output};
use crate::engine::package::Role;
use crate::engine::package::manifest::Manifest;
use crate::engine::tensorrt::cuda::{Graph, Stream};
use crate::engine::tensorrt::ports::{Element, Extent, Port, Ports, Way};
use crate::engine::tensorrt::runtime::{Engine, Execution};
use std::sync::Arc;

/// The image encoder.
pub(in crate::engine::tensorrt) struct Encoder {
    // Goes first: it was recorded from the execution context.
    graph: Option<Graph>,
    execution: Execution,
    stream: Arc<Stream>,
    image: Port,
    features: [Port; 3],
    /// Values of each feature.
    lengths: [usize; 3],
    /// Plain calls still to be made before recording; none: never.
    until_graph: Option<u8>,
}

/// TensorRT allocates and tunes in its first calls; only then may it be recorded.
const PLAIN_CALLS: u8 = 2;

impl Encoder {
    pub(in crate::engine::tensorrt) fn new(
        engine: Engine,
        manifest: &Manifest,
        shapes: &[Vec<usize>; 3],
        stream: &Arc<Stream>,
        graphs: bool,
    ) -> Result<Self, SessionError> {
        let context = stream.context();
        let tensors = engine.tensors()?;
        let ports = Ports { role: Role::Encoder, tensors: &tensors };
        let side = manifest.input_size;
        let image_shape = [1, 3, side, side];
        let image =
            Port::new(&ports.expect(IMAGE, Way::In, &image_shape.map(Extent::Is))?, context);
        let features = expect_features(&ports, Way::Out, shapes)?;
        let lengths = shapes.each_ref().map(|shape| shape.iter().product());
        fits_in_memory(Role::Encoder, engine.activation_bytes(), context)?;
        let mut encoder = Self {
            graph: None,
            execution: engine.into_context()?,
            stream: Arc::clone(stream),
            image,
            features: features.each_ref().map(|declared| Port::new(declared, context)),
            lengths,
            until_graph: graphs.then_some(PLAIN_CALLS),
        };
        // Once and for all: shapes and addresses never change.
        let Self { execution, image, features, .. } = &mut encoder;
        image.reserve(3 * side * side)?;
        execution.set_shape(image.name(), &image_shape)?;
        execution.bind(image.name(), image.device()?)?;
        for ((port, length), shape) in features.iter_mut().zip(lengths).zip(shapes) {
            port.reserve(length)?;
            execution.bind(port.name(), port.device()?)?;
            let found = execution.shape(port.name());
            if !same(&found, shape) {
                let name = port.name().to_string_lossy();
                return Err(SessionError::Shape(format!(
                    "{name} is {found:?}, expected {shape:?}"
                )));
            }
        }
        Ok(encoder)
    }

    /// Types of the features, in order.
    pub(in crate::engine::tensorrt) fn elements(&self) -> [Element; 3] {
        self.features.each_ref().map(Port::element)
    }

    /// Encodes into `into`, whose buffers have the features' sizes.
    pub(in crate::engine::tensorrt) fn run(
        &mut self,
        image: &ImageTensor,
        into: &Features,
    ) -> Result<(), BackendError> {
        let stream = Arc::clone(&self.stream);
        settled("encoder", &stream, || {
            self.image.send(image.data(), &stream)?;
            self.infer()?;
            for ((port, length), kept) in self.features.iter_mut().zip(self.lengths).zip(into) {
                stream.copy(kept, port.device()?)?;
                port.fetch(length, &stream)?;
            }
            Ok(())
        })?;
        for (port, length) in self.features.iter().zip(self.lengths) {
            if !port.element().all_finite(port.received(length)) {
                let name = port.name().to_string_lossy();
                return Err(bad_output("encoder", format!("{name} holds NaN or infinity")));
            }
        }
        Ok(())
    }

    fn infer(&mut self) -> Result<(), Trouble> {
        if let Some(graph) = &self.graph {
            return Ok(graph.launch()?);
        }
        match self.until_graph {
            Some(0) => {
                self.until_graph = None;
                let (execution, stream) = (&mut self.execution, &self.stream);
                match stream.capture(|| Ok::<(), Trouble>(execution.enqueue(stream)?)) {
                    Ok(graph) => {
                        graph.launch()?;
                        self.graph = Some(graph);
                        return Ok(());
                    }
                    Err(trouble) => {
                        tracing::info!(%trouble, "the encoder can't be recorded as a CUDA graph; it runs without");
                    }
                }
            }
            Some(calls) => self.until_graph = Some(calls - 1),
            None => {}
        }
        Ok(self.execution.enqueue(&self.stream)?)
    }

    /// Does it run as a recorded graph by now?
    pub(in crate::engine::tensorrt) fn is_recorded(&self) -> bool {
        self.graph.is_some()
    }
}
