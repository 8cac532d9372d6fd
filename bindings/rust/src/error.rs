use crate::sys;
use std::ffi::CStr;
use std::fmt;
use std::os::raw::c_char;

/// What a call came to that was no success. The header's comment on each function says which it may be, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The library is not initialised. The crate does that, so this is a fault of the crate.
    NotInitialized,
    /// A fault of the library, or no memory or threads to be had. Drop the communicator.
    InternalError,
    /// An argument was refused, or the peers' descriptors differ.
    InvalidArgument,
    /// Not allowed in this state, or peers wait in different calls.
    InvalidUsage,
    /// This peer is alone in its group.
    TooFewPeers,
    /// The master cannot be reached, refused this peer or has evicted it. `connect` may be called again.
    MasterConnectionFailed,
    /// Another peer cannot be reached.
    RankConnectionFailed,
    /// A peer was lost during the operation. What was sent is whole, the world size is new: call again.
    RankConnectionLost,
    /// No peer can give the shared state with the revision that is due.
    NoSharedStateAvailable,
    /// Operations are in flight that were not waited for.
    PendingAsyncOps,
    /// The join point failed: this peer was evicted, or the master stayed away. Make a new communicator.
    UpdateTopologyFailed,
    /// The topology could not be optimised.
    TopologyOptimizationFailed,
    /// A number that this crate does not know.
    Unknown(u32),
}

impl ErrorCode {
    fn of(result: sys::pcclResult_t) -> ErrorCode {
        match result {
            sys::pcclNotInitialized => ErrorCode::NotInitialized,
            sys::pcclInternalError => ErrorCode::InternalError,
            sys::pcclInvalidArgument => ErrorCode::InvalidArgument,
            sys::pcclInvalidUsage => ErrorCode::InvalidUsage,
            sys::pcclTooFewPeers => ErrorCode::TooFewPeers,
            sys::pcclMasterConnectionFailed => ErrorCode::MasterConnectionFailed,
            sys::pcclRankConnectionFailed => ErrorCode::RankConnectionFailed,
            sys::pcclRankConnectionLost => ErrorCode::RankConnectionLost,
            sys::pcclNoSharedStateAvailable => ErrorCode::NoSharedStateAvailable,
            sys::pcclPendingAsyncOps => ErrorCode::PendingAsyncOps,
            sys::pcclUpdateTopologyFailed => ErrorCode::UpdateTopologyFailed,
            sys::pcclTopologyOptimizationFailed => ErrorCode::TopologyOptimizationFailed,
            other => ErrorCode::Unknown(other),
        }
    }

    // The C API tells the reason of a single failure in its log only, so the text has to send the reader there.
    fn meaning(self) -> &'static str {
        match self {
            ErrorCode::NotInitialized => "the library is not initialised",
            ErrorCode::InternalError => {
                "a fault of the library, or no memory or threads to be had; drop the communicator"
            }
            ErrorCode::InvalidArgument => {
                "an argument was refused, or the peers' counts, types, operations or codecs for this tag differ"
            }
            ErrorCode::InvalidUsage => {
                "not allowed now: not connected, connected already, or peers are in different calls"
            }
            ErrorCode::TooFewPeers => "this peer is alone in its group; call update_topology until another is admitted",
            ErrorCode::MasterConnectionFailed => {
                "the master cannot be reached, refused this peer or has evicted it; connect may be called again"
            }
            ErrorCode::RankConnectionFailed => "another peer cannot be reached",
            ErrorCode::RankConnectionLost => {
                "a peer was lost during the operation; what was sent is whole and the world size is new: call again"
            }
            ErrorCode::NoSharedStateAvailable => "no peer can give the shared state with the revision that is due",
            ErrorCode::PendingAsyncOps => "operations are in flight; wait for them first",
            ErrorCode::UpdateTopologyFailed => {
                "the join point failed: this peer was evicted, or the master stayed away; make a new communicator"
            }
            ErrorCode::TopologyOptimizationFailed => {
                "the topology could not be optimised; wait for all operations, or make a new communicator"
            }
            ErrorCode::Unknown(_) => "this crate does not know it",
        }
    }
}

/// What a call came to: a code to act on, and a text for a person, which names the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: ErrorCode,
    text: String,
}

impl Error {
    /// Which error it is.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    pub(crate) fn invalid_argument(text: String) -> Error {
        Error { code: ErrorCode::InvalidArgument, text }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} [{:?}]", self.text, self.code)
    }
}

impl std::error::Error for Error {}

/// Turns a result into an error, unless it is a success. `call` is only asked when there is one.
pub(crate) fn check(result: sys::pcclResult_t, call: impl FnOnce() -> String) -> Result<(), Error> {
    if result == sys::pcclSuccess {
        return Ok(());
    }
    let code = ErrorCode::of(result);
    let reason = reason();
    let said = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    Err(Error { code, text: format!("{}: {}{said}", call(), code.meaning()) })
}

/// What the library says of this thread's latest call that was no success.
fn reason() -> String {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: the text is the library's, ends with a zero, and is good until this thread's next call.
    unsafe {
        if sys::pcclGetErrorText(&mut text) != sys::pcclSuccess || text.is_null() {
            return String::new();
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
