use crate::sys;

mod sealed {
    pub trait Sealed {}
}

/// The type of a tensor's elements: integers of 8 to 64 bits, [`Float16`], [`BFloat16`], `f32`, `f64`.
///
/// Sealed, because the library writes any bits into memory of such a type, and does so beside running Rust code: each
/// of them is plain data without padding, of which every pattern of bits is a value.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The `pcclDataType_t`.
    #[doc(hidden)]
    const DATA_TYPE: sys::pcclDataType_t;
}

macro_rules! elements {
    ($($element:ty = $number:expr),* $(,)?) => { $(
        impl sealed::Sealed for $element {}
        impl Element for $element {
            const DATA_TYPE: sys::pcclDataType_t = $number;
        }
    )* };
}
elements! {
    u8 = 0, i8 = 1, i16 = 2, u16 = 3, u32 = 4, i32 = 5, u64 = 6, i64 = 7,
    Float16 = 8, BFloat16 = 9, f32 = 10, f64 = 11,
}

/// The bits of an IEEE 754 binary16. Arithmetic is the program's own affair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Float16(pub u16);

/// The bits of a bfloat16: the upper half of an `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct BFloat16(pub u16);

/// How contributions become one value: `pcclRedOp_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ReduceOp {
    /// Integers wrap around.
    Sum = 0,
    /// The sum divided by the number of peers that took part; of integers without the fraction.
    Average = 1,
    /// Integers wrap around.
    Product = 2,
    /// NaN if any contribution is.
    Maximum = 3,
    /// NaN if any contribution is.
    Minimum = 4,
}

/// What becomes of an operation when a peer is lost in it: `pcclOnLoss_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OnLoss {
    /// All survivors get `RankConnectionLost`, and their input is whole.
    Abort = 0,
    /// The survivors finish it; elements may be of different numbers of peers.
    Resume = 1,
    /// The survivors finish it, and all elements are of the same peers.
    ResumeWhole = 2,
    /// `Abort` for one operation; for several what suits each.
    Usual = 3,
}

/// What travels of floats instead of themselves: `pcclCodec_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Codec {
    /// The floats themselves.
    None = 0,
    MinMax8 = 1,
    MinMax16 = 2,
    MinMax32 = 3,
    ZeroPoint8 = 4,
    ZeroPoint16 = 5,
    ZeroPoint32 = 6,
    Int4 = 7,
    Int4E8M0 = 8,
    E3M0 = 9,
    E3M0E8M0 = 10,
    E4M3 = 11,
    E4M3E8M0 = 12,
    Float16 = 13,
    BFloat16 = 14,
}

/// Which of the two codes next to a value it gets: `pcclRounding_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Rounding {
    /// The nearer one.
    Nearest = 0,
    /// Either, as often as the value is nearer to it.
    Stochastic = 1,
}

/// How an operation is carried out: `pcclReduceOptions_t`, and the tag.
///
/// ```
/// use pccl::{Codec, ReduceOptions};
/// let options = ReduceOptions { tag: 7, codec: Codec::Int4, error_feedback: true, ..ReduceOptions::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReduceOptions {
    /// Tells operations apart that are in flight together. The same at all peers.
    pub tag: u64,
    /// What a loss does.
    pub on_loss: OnLoss,
    /// The same at all peers, as are the next two.
    pub codec: Codec,
    /// How many values share a scale: 32, 64, 128 or 256; 0 for what suits the codec.
    pub block_elements: u32,
    /// How codes are chosen.
    pub rounding: Rounding,
    /// Whether what coding loses of a sum or an average is added to the next one with this tag.
    pub error_feedback: bool,
}

impl Default for ReduceOptions {
    fn default() -> ReduceOptions {
        ReduceOptions {
            tag: 0,
            on_loss: OnLoss::Usual,
            codec: Codec::None,
            block_elements: 0,
            rounding: Rounding::Nearest,
            error_feedback: false,
        }
    }
}

impl ReduceOptions {
    /// The default with a tag.
    pub fn tagged(tag: u64) -> ReduceOptions {
        ReduceOptions { tag, ..ReduceOptions::default() }
    }

    pub(crate) fn native(&self) -> sys::pcclReduceOptions_t {
        sys::pcclReduceOptions_t {
            struct_size: std::mem::size_of::<sys::pcclReduceOptions_t>(),
            on_loss: self.on_loss as u32,
            codec: self.codec as u32,
            block_elements: self.block_elements,
            rounding: self.rounding as u32,
            error_feedback: self.error_feedback as u32,
            reserved: 0,
            cuda_stream: std::ptr::null_mut(),
        }
    }

    /// How many parts of a result there may be that a caller wants to know of.
    pub(crate) fn parts_at_most(&self, elements: usize) -> usize {
        match self.on_loss {
            OnLoss::Resume | OnLoss::ResumeWhole => elements.min(1024),
            OnLoss::Abort | OnLoss::Usual => 0,
        }
    }
}

/// Elements of a result, one after the other, that the same peers have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReducePart {
    /// Counted from the start of the buffer.
    pub first_element: u64,
    /// How many.
    pub element_count: u64,
    /// Of how many peers the contributions are. An average is over so many.
    pub world_size: u32,
}

/// What an operation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReduceInfo {
    /// Of how many peers the contributions are.
    pub world_size: u32,
    /// Bytes of tensors that this peer sent for it.
    pub sent_bytes: u64,
    /// Bytes of tensors that this peer received for it.
    pub received_bytes: u64,
    /// Which elements are of how many peers; of an all-reduce with an `on_loss` that resumes, otherwise empty.
    pub parts: Vec<ReducePart>,
}

impl ReduceInfo {
    pub(crate) fn of(info: sys::pcclReduceInfo_t, parts: &[sys::pcclReducePart_t]) -> ReduceInfo {
        ReduceInfo {
            world_size: info.local_world_size,
            sent_bytes: info.tx_bytes,
            received_bytes: info.rx_bytes,
            parts: parts
                .iter()
                .map(|part| ReducePart {
                    first_element: part.first_element,
                    element_count: part.element_count,
                    world_size: part.world_size,
                })
                .collect(),
        }
    }
}
