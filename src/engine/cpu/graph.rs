//! What an ONNX file declares about itself, read before the runtime sees it.
//!
//! Two reasons to look first. The daemon binds inputs and outputs by name and wants to say which one
//! is missing or misshapen, in words an operator can act on. And rten 0.27 reads `Resize` with mode
//! `cubic` as linear *without a word* (`op_registry/onnx_registry.rs`): masks would be slightly
//! wrong for ever, so such a model is refused by the node's name.
//!
//! It reads structure only; weights are dropped on return.

use crate::engine::package::Role;
use rten_onnx::onnx::{DataType, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use std::collections::HashMap;

/// Names, element types and shapes of a graph's inputs and outputs.
#[derive(Debug)]
pub(super) struct Declared {
    role: Role,
    values: HashMap<String, Value>,
}

#[derive(Debug)]
struct Value {
    float: bool,
    /// `None` is a dynamic dimension.
    shape: Option<Vec<Option<usize>>>,
}

/// A dimension that the ONNX contract asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dim {
    /// Exactly this.
    Is(usize),
    /// Prompts in a batch or rows in a prompt: must not be fixed.
    Dynamic,
    /// Fixed to one or dynamic: the backend adapts.
    OneOrDynamic,
}

/// Why a model file can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Not ONNX, or damaged in a way that the sum doesn't show.
    #[error("{role}: not a readable ONNX model: {what}")]
    Unreadable {
        /// `encoder` or `decoder`.
        role: &'static str,
        /// The parser's words.
        what: String,
    },
    /// An operator that the runtime would compute differently, silently.
    #[error(
        "{role}: node {node} is a Resize with mode cubic, which this runtime computes as linear; export without it"
    )]
    CubicResize {
        /// `encoder` or `decoder`.
        role: &'static str,
        /// Name of the node, or of its output.
        node: String,
    },
    /// An input or output of the contract is missing.
    #[error("{role}: no input or output is named {name}")]
    Missing {
        /// `encoder` or `decoder`.
        role: &'static str,
        /// As the contract calls it.
        name: String,
    },
    /// It is there, but of another type or shape.
    #[error("{role}: {name} is {found}, expected {expected}")]
    Misfit {
        /// `encoder` or `decoder`.
        role: &'static str,
        /// As the contract calls it.
        name: String,
        /// From the file.
        found: String,
        /// From the manifest and the contract.
        expected: String,
    },
}

impl Declared {
    /// Reads a model file's declarations and looks through its nodes.
    ///
    /// # Errors
    /// `Unreadable`, `CubicResize`.
    pub(super) fn read(role: Role, onnx: &[u8]) -> Result<Self, GraphError> {
        let unreadable = |what| GraphError::Unreadable { role: role.name(), what };
        let model = ModelProto::parse_buf(onnx).map_err(|error| unreadable(error.to_string()))?;
        let graph = model.graph.ok_or_else(|| unreadable("it has no graph".into()))?;
        if let Some(node) = cubic_resize(&graph) {
            return Err(GraphError::CubicResize { role: role.name(), node });
        }
        let values = graph.input.iter().chain(&graph.output);
        Ok(Self {
            role,
            values: values.filter_map(|v| Some((v.name.clone()?, value(v)))).collect(),
        })
    }

    /// Does the graph declare such an input or output?
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Is the first dimension of this input fixed to one?
    pub(super) fn is_single(&self, name: &str) -> bool {
        let shape = self.values.get(name).and_then(|value| value.shape.as_ref());
        shape.and_then(|shape| shape.first()) == Some(&Some(1))
    }

    /// Checks one input or output against the contract. A file that declares no shape for it is
    /// taken at its word: every run checks what really comes out.
    ///
    /// # Errors
    /// `Missing`, `Misfit`.
    pub(super) fn expect(&self, name: &str, dims: &[Dim]) -> Result<(), GraphError> {
        let role = self.role.name();
        let value =
            self.values.get(name).ok_or_else(|| GraphError::Missing { role, name: name.into() })?;
        let misfit = |found: String, expected: String| GraphError::Misfit {
            role,
            name: name.into(),
            found,
            expected,
        };
        if !value.float {
            return Err(misfit("not f32".into(), "f32".into()));
        }
        let Some(shape) = &value.shape else { return Ok(()) };
        let fits = |(found, expected): (&Option<usize>, &Dim)| match expected {
            Dim::Is(size) => found.is_none_or(|found| found == *size),
            Dim::Dynamic => found.is_none(),
            Dim::OneOrDynamic => found.is_none_or(|found| found == 1),
        };
        if shape.len() == dims.len() && shape.iter().zip(dims).all(fits) {
            return Ok(());
        }
        let found = shape.iter().map(|dim| dim.map_or("?".into(), |size| size.to_string()));
        let expected = dims.iter().map(|dim| match dim {
            Dim::Is(size) => size.to_string(),
            Dim::Dynamic => "?".into(),
            Dim::OneOrDynamic => "1 or ?".into(),
        });
        Err(misfit(bracketed(found), bracketed(expected)))
    }
}

fn bracketed(dims: impl Iterator<Item = String>) -> String {
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}

fn value(info: &ValueInfoProto) -> Value {
    let tensor = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let size = |dim: Option<i64>| dim.and_then(|dim| usize::try_from(dim).ok());
    Value {
        float: tensor.and_then(|tensor| tensor.elem_type.as_ref()) == Some(&DataType::FLOAT),
        shape: tensor
            .and_then(|tensor| tensor.shape.as_ref())
            .map(|shape| shape.dim.iter().map(|dim| size(dim.dim_value)).collect()),
    }
}

/// The name of the first cubic Resize, in subgraphs too.
fn cubic_resize(graph: &GraphProto) -> Option<String> {
    let cubic = |node: &NodeProto| {
        matches!(node.op_type.as_deref(), Some("Resize" | "Upsample"))
            && node.attribute.iter().any(|attribute| {
                attribute.name.as_deref() == Some("mode") && attribute.s.as_deref() == Some("cubic")
            })
    };
    graph.node.iter().find_map(|node| {
        if cubic(node) {
            let output = || node.output.first().cloned();
            let name = node.name.clone().filter(|name| !name.is_empty());
            return Some(name.or_else(output).unwrap_or_else(|| "(unnamed)".into()));
        }
        node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()).find_map(cubic_resize)
    })
}
