//! TensorRT's C++ objects as they lie in memory: where a method stands in its table, what its
//! arguments look like. No header, no C++ compiler, no library at build time.
//!
//! A public object is `{vptr, impl}`. Its methods call the method of the same name in `impl`'s own
//! table; only destruction goes through the public table. A slot is counted after the two destructor
//! slots with which each of these tables begins (Itanium C++ ABI, x86-64 and aarch64 alike).
//!
//! Invariants:
//! 1. A slot is used only with the [`Layout`] of the library that made the object.
//! 2. Every slot here equals what a C++ compiler makes of NVIDIA's own headers: `./test tensorrt`
//!    compiles them and compares.
//! 3. Layouts only ever grew at their end within a major version (seen in all headers from 10.0 to
//!    10.16 and from 11.0 to 11.4); another major is another layout and refused until it is known.
#![expect(unsafe_code, reason = "calls through C++ tables")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;

/// Any C++ object.
pub(super) type Pointer = *mut c_void;

/// `Dims64`: number of dimensions and their extents, −1 where dynamic.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    count: i32,
    extents: [i64; 8],
}

impl Dims {
    /// `None` for more than eight dimensions, or extents beyond `i64`.
    pub(super) fn new(shape: &[usize]) -> Option<Self> {
        let mut extents = [0; 8];
        for (place, extent) in shape.iter().enumerate() {
            *extents.get_mut(place)? = i64::try_from(*extent).ok()?;
        }
        Some(Self { count: i32::try_from(shape.len()).ok()?, extents })
    }

    /// The extents; `None` where TensorRT says "no such tensor" (a count of −1).
    pub(super) fn shape(&self) -> Option<&[i64]> {
        self.extents.get(..usize::try_from(self.count).ok()?)
    }
}

/// `TensorIOMode`.
pub(super) const MODE_INPUT: c_int = 1;
/// `TensorIOMode`.
pub(super) const MODE_OUTPUT: c_int = 2;
/// `DataType::kFLOAT`.
pub(super) const TYPE_FLOAT: c_int = 0;
/// `DataType::kHALF`.
pub(super) const TYPE_HALF: c_int = 1;
/// `OptProfileSelector::kMIN`.
pub(super) const PROFILE_MIN: c_int = 0;
/// `OptProfileSelector::kMAX`.
pub(super) const PROFILE_MAX: c_int = 2;
/// `ErrorCode::kFAILED_ALLOCATION`.
pub(super) const CODE_ALLOCATION: c_int = 5;

// Signatures, `this` first.
pub(super) type Deserialize = unsafe extern "C" fn(Pointer, *const c_void, usize) -> Pointer;
pub(super) type SetRecorder = unsafe extern "C" fn(Pointer, Pointer);
pub(super) type SetFlag = unsafe extern "C" fn(Pointer, bool);
pub(super) type Count = unsafe extern "C" fn(Pointer) -> c_int;
pub(super) type Size = unsafe extern "C" fn(Pointer) -> i64;
pub(super) type NameAt = unsafe extern "C" fn(Pointer, c_int) -> *const c_char;
pub(super) type NumberOf = unsafe extern "C" fn(Pointer, *const c_char) -> c_int;
pub(super) type ShapeOf = unsafe extern "C" fn(Pointer, *const c_char) -> Dims;
pub(super) type ProfileShape = unsafe extern "C" fn(Pointer, *const c_char, c_int, c_int) -> Dims;
pub(super) type MakeContext = unsafe extern "C" fn(Pointer, c_int) -> Pointer;
pub(super) type SetShape = unsafe extern "C" fn(Pointer, *const c_char, *const Dims) -> bool;
pub(super) type SetAddress = unsafe extern "C" fn(Pointer, *const c_char, Pointer) -> bool;
pub(super) type SetProfile = unsafe extern "C" fn(Pointer, c_int, Pointer) -> bool;
pub(super) type Enqueue = unsafe extern "C" fn(Pointer, Pointer) -> bool;
/// `createInferRuntime_INTERNAL(logger, version)`.
pub(super) type CreateRuntime = unsafe extern "C" fn(Pointer, i32) -> Pointer;

/// Which table a library's objects have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// TensorRT 10.
    Ten,
    /// TensorRT 11, and TensorRT-RTX from 1.5 on.
    Eleven,
}

macro_rules! slots {
    ($($field:ident = $name:literal),+ $(,)?) => {
        /// Slots of the methods in use.
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Slots {
            $(pub(super) $field: usize,)+
        }

        impl Slots {
            fn named(&self) -> Vec<(&'static str, usize)> {
                vec![$(($name, self.$field)),+]
            }
        }
    };
}

slots! {
    deserialize = "VRuntime.deserializeCudaEngine",
    set_error_recorder = "VRuntime.setErrorRecorder",
    set_host_code_allowed = "VRuntime.setEngineHostCodeAllowed",
    create_context = "VCudaEngine.createExecutionContext",
    profiles = "VCudaEngine.getNbOptimizationProfiles",
    io_count = "VCudaEngine.getNbIOTensors",
    io_name = "VCudaEngine.getIOTensorName",
    io_mode = "VCudaEngine.getTensorIOMode",
    io_type = "VCudaEngine.getTensorDataType",
    io_location = "VCudaEngine.getTensorLocation",
    io_format = "VCudaEngine.getTensorFormat",
    io_shape = "VCudaEngine.getTensorShape",
    profile_shape = "VCudaEngine.getProfileShape",
    device_memory = "VCudaEngine.getDeviceMemorySizeV2",
    set_profile = "VExecutionContext.setOptimizationProfileAsync",
    set_input_shape = "VExecutionContext.setInputShape",
    context_shape = "VExecutionContext.getTensorShape",
    set_address = "VExecutionContext.setTensorAddress",
    enqueue = "VExecutionContext.enqueueV3",
}

const TEN: Slots = Slots {
    deserialize: 1,
    set_error_recorder: 7,
    set_host_code_allowed: 19,
    create_context: 3,
    profiles: 8,
    io_count: 28,
    io_name: 29,
    io_mode: 21,
    io_type: 18,
    io_location: 19,
    io_format: 24,
    io_shape: 17,
    profile_shape: 27,
    device_memory: 50,
    set_profile: 15,
    set_input_shape: 19,
    context_shape: 20,
    set_address: 22,
    enqueue: 35,
};

const ELEVEN: Slots = Slots {
    deserialize: 1,
    set_error_recorder: 6,
    set_host_code_allowed: 18,
    create_context: 3,
    profiles: 6,
    io_count: 24,
    io_name: 25,
    io_mode: 17,
    io_type: 14,
    io_location: 15,
    io_format: 20,
    io_shape: 13,
    profile_shape: 23,
    device_memory: 42,
    set_profile: 14,
    set_input_shape: 18,
    context_shape: 19,
    set_address: 21,
    enqueue: 34,
};

impl Layout {
    pub(super) fn slots(self) -> &'static Slots {
        match self {
            Self::Ten => &TEN,
            Self::Eleven => &ELEVEN,
        }
    }

    /// Class, method and slot of everything in use: to be held against the headers.
    #[must_use]
    pub fn named_slots(self) -> Vec<(&'static str, usize)> {
        self.slots().named()
    }
}

/// A public TensorRT object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object(NonNull<c_void>);

// SAFETY: TensorRT's runtime objects may be used from any thread, one at a time; the wrappers in
// `runtime` take `&mut self` wherever a call changes an object and are not Sync.
unsafe impl Send for Object {}

/// The first page is never mapped, and without a driver TensorRT's factory hands out what looks like
/// an offset from null (0x228 seen): so "not null" is not enough.
const LEAST_ADDRESS: usize = 0x1_0000;

impl Object {
    /// `None` for what can't be an object's address.
    pub(super) fn new(pointer: Pointer) -> Option<Self> {
        let plausible =
            pointer.addr() >= LEAST_ADDRESS && pointer.addr().is_multiple_of(align_of::<Pointer>());
        NonNull::new(pointer).filter(|_| plausible).map(Self)
    }

    /// The hidden half and the method in `slot` of its table.
    ///
    /// # Safety
    /// Until the object is deleted: it is a public TensorRT object, `slot` is that of a method of its
    /// class in its library's layout, and `F` is that method's signature with `this` first.
    pub(super) unsafe fn method<F: Copy>(self, slot: usize) -> (F, Pointer) {
        const { assert!(size_of::<F>() == size_of::<Pointer>()) };
        let words = self.0.as_ptr().cast::<Pointer>();
        // SAFETY: the caller: a public object is {vptr, impl}, so it has a second word.
        let hidden = unsafe { words.add(1).read() };
        // SAFETY: the caller: `impl` is a C++ object with virtual methods, which starts with its vptr.
        let table = unsafe { hidden.cast::<*const *const c_void>().read() };
        // SAFETY: the caller: the table has this slot; two destructor slots stand before the first.
        let method = unsafe { table.add(slot + 2).read() };
        // SAFETY: the caller: `F` is the type of the function in that slot; the sizes are equal.
        let method = unsafe { std::mem::transmute_copy::<*const c_void, F>(&method) };
        (method, hidden)
    }

    /// Runs the deleting destructor, the second slot of the public table.
    ///
    /// # Safety
    /// It is a public TensorRT object that nothing uses any more.
    pub(super) unsafe fn delete(self) {
        // SAFETY: the caller: a C++ object with virtual methods starts with its vptr.
        let table = unsafe { self.0.as_ptr().cast::<*const *const c_void>().read() };
        // SAFETY: the caller: its table begins with the two destructors.
        let destroy = unsafe { table.add(1).read() };
        // SAFETY: the deleting destructor takes `this` and gives nothing.
        let destroy =
            unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn(Pointer)>(destroy) };
        // SAFETY: the caller: nothing uses the object any more.
        unsafe { destroy(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_be_an_address_is_no_object() {
        for address in [0, 0x228, 0xFFFF, 0x2_0001] {
            assert!(
                Object::new(std::ptr::without_provenance_mut(address)).is_none(),
                "{address:#x}"
            );
        }
        assert!(Object::new(std::ptr::without_provenance_mut(0x7f00_0000_1000)).is_some());
    }

    #[test]
    fn dims_keep_their_order_and_say_when_there_are_none() {
        let dims = Dims::new(&[1, 3, 1024, 512]).unwrap();
        assert_eq!(dims.shape().unwrap(), [1, 3, 1024, 512]);
        assert!(Dims::new(&[1; 9]).is_none());
        assert!(Dims { count: -1, extents: [0; 8] }.shape().is_none());
        assert_eq!(size_of::<Dims>(), 72);
    }
}
