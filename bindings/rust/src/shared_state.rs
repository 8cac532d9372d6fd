use crate::error::{check, Error};
use crate::sys;
use crate::types::Element;
use std::ffi::CString;
use std::marker::PhantomData;
use std::os::raw::c_void;

/// What a member is willing to do in a synchronisation: `pcclSharedStateSyncStrategy_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Strategy {
    /// All end with the content that most members hold. All members must say the same.
    EnforcePopular = 0,
    /// Only take.
    ReceiveOnly = 1,
    /// Only give; this content must be the elected one.
    SendOnly = 2,
}

/// What a synchronisation moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncInfo {
    /// Bytes of tensors and hashes that this peer sent.
    pub sent_bytes: u64,
    /// Bytes of tensors and hashes that this peer received.
    pub received_bytes: u64,
}

/// How peers treat an entry of a shared state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryOptions {
    /// Peers may hold different values: it is neither compared nor sent on its own.
    pub may_differ: bool,
    /// The caller's word that nobody has written it since the last synchronisation. It is believed.
    pub is_unchanged: bool,
}

/// The tensors that all members of a group hold alike. Borrows their memory, so make it where it is needed, and keep
/// the revision.
///
/// ```no_run
/// # let communicator = pccl::Communicator::new(&pccl::Configuration::new("127.0.0.1:48148"))?;
/// use pccl::{SharedState, Strategy};
/// let (mut weights, mut revision) = (vec![0f32; 1000], 0);
/// let mut state = SharedState::new(revision);
/// state.add("weights", &mut weights);
/// let info = communicator.synchronize(&mut state, Strategy::EnforcePopular)?;
/// revision = state.revision + 1; // one more each time
/// println!("received {} bytes", info.received_bytes);
/// # Ok::<(), pccl::Error>(())
/// ```
#[derive(Debug)]
pub struct SharedState<'a> {
    /// Goes up by one from synchronisation to synchronisation; written where this peer was behind.
    pub revision: u64,
    entries: Vec<Entry<'a>>,
}

#[derive(Debug)]
struct Entry<'a> {
    name: String,
    elements: *mut c_void,
    count: usize,
    data_type: sys::pcclDataType_t,
    options: EntryOptions,
    buffer: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for `&mut [T]` of elements that are Send.
unsafe impl Send for Entry<'_> {}
// SAFETY: through a shared reference nothing can be done with it.
unsafe impl Sync for Entry<'_> {}

impl<'a> SharedState<'a> {
    /// Without entries.
    pub fn new(revision: u64) -> SharedState<'a> {
        SharedState { revision, entries: Vec::new() }
    }

    /// Adds an entry that all hold alike. The name is unique in the state.
    pub fn add<T: Element>(&mut self, name: impl Into<String>, buffer: &'a mut [T]) -> &mut SharedState<'a> {
        self.add_with(name, buffer, EntryOptions::default())
    }

    /// Adds an entry with options.
    pub fn add_with<T: Element>(
        &mut self,
        name: impl Into<String>,
        buffer: &'a mut [T],
        options: EntryOptions,
    ) -> &mut SharedState<'a> {
        self.entries.push(Entry {
            name: name.into(),
            elements: buffer.as_mut_ptr().cast(),
            count: buffer.len(),
            data_type: T::DATA_TYPE,
            options,
            buffer: PhantomData,
        });
        self
    }

    pub(crate) fn synchronize(
        &mut self,
        communicator: *mut sys::pcclComm_t,
        strategy: Strategy,
    ) -> Result<SyncInfo, Error> {
        let names: Vec<CString> = self
            .entries
            .iter()
            .map(|entry| {
                CString::new(entry.name.as_str())
                    .map_err(|_| Error::invalid_argument(format!("the name {:?} has a NUL in it", entry.name)))
            })
            .collect::<Result<_, _>>()?;
        let mut infos: Vec<sys::pcclTensorInfo_t> = self
            .entries
            .iter()
            .zip(&names)
            .map(|(entry, name)| sys::pcclTensorInfo_t {
                name: name.as_ptr(),
                data: entry.elements,
                count: entry.count,
                datatype: entry.data_type,
                device_type: sys::pcclDeviceCpu,
                allow_content_inequality: entry.options.may_differ,
            })
            .collect();
        let unchanged: Vec<bool> = self.entries.iter().map(|entry| entry.options.is_unchanged).collect();
        let options = sys::pcclSyncOptions_t {
            struct_size: std::mem::size_of::<sys::pcclSyncOptions_t>(),
            unchanged: unchanged.as_ptr(),
        };
        let mut native =
            sys::pcclSharedState_t { revision: self.revision, count: infos.len(), infos: infos.as_mut_ptr() };
        let mut info = sys::pcclSharedStateSyncInfo_t::default();
        // SAFETY: all of it lives through the call, and the tensors are borrowed by this state, which is borrowed
        // exclusively. The library keeps nothing when it returns.
        let result = unsafe {
            sys::pcclSynchronizeSharedStateWithOptions(communicator, &mut native, strategy as u32, &options, &mut info)
        };
        check(result, || format!("pcclSynchronizeSharedState (revision {})", self.revision))?;
        self.revision = native.revision;
        Ok(SyncInfo { sent_bytes: info.tx_bytes, received_bytes: info.rx_bytes })
    }
}
