use crate::error::{check, Error};
use crate::scope::{run_scope, Scope};
use crate::shared_state::{SharedState, Strategy, SyncInfo};
use crate::sys;
use crate::types::{Element, ReduceInfo, ReduceOp, ReduceOptions};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::raw::{c_int, c_void};
use std::ptr::{self, NonNull};

pub(crate) fn resolve(text: &str) -> Result<sys::ccoip_socket_address_t, Error> {
    let refused = |why: &str| Error::invalid_argument(format!("address {:?}: {}", text, why));
    let (host, port) = text.rsplit_once(':').ok_or_else(|| refused("expected host:port"))?;
    match port.parse::<u16>() {
        Ok(port) if port != 0 && !host.is_empty() => {}
        _ if host.is_empty() => return Err(refused("expected host:port")),
        _ => return Err(refused("the port must be a number from 1 to 65535")),
    }
    let found = text.to_socket_addrs().map_err(|error| refused(&error.to_string()))?.next();
    let address: SocketAddr = found.ok_or_else(|| refused("the name stands for no address"))?;
    let mut native = sys::ccoip_socket_address_t { port: address.port(), ..Default::default() };
    match address.ip() {
        IpAddr::V4(ip) => {
            native.inet.protocol = sys::inetIPv4;
            native.inet.ipv4.data = ip.octets();
        }
        IpAddr::V6(ip) => {
            native.inet.protocol = sys::inetIPv6;
            native.inet.ipv6.data = ip.octets();
        }
    }
    Ok(native)
}

/// What a communicator is made from.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Of the master: `host:port` or `[IPv6 address]:port`.
    pub master: String,
    /// Collectives, join points and shared states span one group.
    pub peer_group: u32,
    /// 0 lets the library choose.
    pub connections_per_peer: u32,
    /// Id and size of an ensemble: peers that are admitted all together or not at all. `pcclEnsemble_t`.
    pub ensemble: Option<(u64, u32)>,
}

impl Configuration {
    /// Group 0 of the run of this master.
    pub fn new(master: impl Into<String>) -> Configuration {
        Configuration { master: master.into(), peer_group: 0, connections_per_peer: 0, ensemble: None }
    }

    /// The same in another group.
    pub fn in_group(self, peer_group: u32) -> Configuration {
        Configuration { peer_group, ..self }
    }
}

/// A peer's membership in a run. Dropping it leaves the run.
///
/// Any thread may call any function, several at once: the library promises that for all but destroying a communicator,
/// which needs `drop`, and so nobody who still borrows it. Functions that are *joint* are called by all members of the
/// group, in the same order, and return when all have called.
#[derive(Debug)]
pub struct Communicator {
    native: NonNull<sys::pcclComm_t>,
    master: String,
}

// SAFETY: pccl.h: "Any thread may call any function at any time, on the same communicator". Nothing here is bound to
// the thread that made it.
unsafe impl Send for Communicator {}
// SAFETY: the same. The exception, pcclDestroyCommunicator, is called by drop only.
unsafe impl Sync for Communicator {}

/// A place among the members of a group, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 0.
    pub rank: u32,
    /// Members of the group.
    pub world_size: u32,
}

impl Communicator {
    /// Makes a communicator, and resolves the master's name. Does not touch the network otherwise.
    ///
    /// ```
    /// use pccl::{Communicator, Configuration, ErrorCode};
    /// let communicator = Communicator::new(&Configuration::new("127.0.0.1:48148"))?;
    /// assert_eq!(communicator.world_size().unwrap_err().code(), ErrorCode::InvalidUsage); // not connected
    ///
    /// let error = Communicator::new(&Configuration::new("nonsense")).unwrap_err();
    /// assert!(error.to_string().contains("expected host:port"));
    /// # Ok::<(), pccl::Error>(())
    /// ```
    pub fn new(configuration: &Configuration) -> Result<Communicator, Error> {
        let parameters = sys::pcclCommCreateParams_t {
            master_address: resolve(&configuration.master)?,
            peer_group: configuration.peer_group,
            p2p_connection_pool_size: configuration.connections_per_peer,
        };
        let mut native = ptr::null_mut();
        // SAFETY: all pointers are to what lives through the calls.
        unsafe {
            check(sys::pcclInit(), || "pcclInit".into())?;
            match configuration.ensemble {
                None => {
                    check(sys::pcclCreateCommunicator(&parameters, &mut native), || "pcclCreateCommunicator".into())?
                }
                Some((id, size)) => {
                    let ensemble = sys::pcclEnsemble_t { id, size, reserved: 0 };
                    check(sys::pcclCreateCommunicatorInEnsemble(&parameters, &ensemble, &mut native), || {
                        "pcclCreateCommunicatorInEnsemble".into()
                    })?
                }
            }
        }
        let native = NonNull::new(native).expect("a success gives a communicator");
        Ok(Communicator { native, master: configuration.master.clone() })
    }

    /// The C object, for calls that this crate has not. Stays this object's.
    pub fn native(&self) -> *mut sys::pcclComm_t {
        self.native.as_ptr()
    }

    /// Joins the run, and blocks until admitted. May be called again after `MasterConnectionFailed`. In the turn in
    /// which it joined a peer does not call [`update_topology`](Self::update_topology).
    pub fn connect(&self) -> Result<(), Error> {
        // SAFETY: the communicator is alive, here and below, as long as it is borrowed.
        check(unsafe { sys::pcclConnect(self.native()) }, || format!("pcclConnect to {}", self.master))
    }

    /// The join point: admits who waits in `connect`. Joint.
    pub fn update_topology(&self) -> Result<(), Error> {
        check(unsafe { sys::pcclUpdateTopology(self.native()) }, || "pcclUpdateTopology".into())
    }

    /// Whether peers wait in `connect`. Joint, and the same answer for all.
    pub fn are_peers_pending(&self) -> Result<bool, Error> {
        let mut answer = false;
        check(unsafe { sys::pcclArePeersPending(self.native(), &mut answer) }, || "pcclArePeersPending".into())?;
        Ok(answer)
    }

    /// Arranges the group by what is known of its links. Joint.
    pub fn optimize_topology(&self) -> Result<(), Error> {
        check(unsafe { sys::pcclOptimizeTopology(self.native()) }, || "pcclOptimizeTopology".into())
    }

    fn attribute(&self, which: sys::pcclAttribute_t) -> Result<usize, Error> {
        let mut value: c_int = 0;
        check(unsafe { sys::pcclGetAttribute(self.native(), which, &mut value) }, || "pcclGetAttribute".into())?;
        Ok(value as usize)
    }

    /// Members of this peer's group, as of now.
    pub fn world_size(&self) -> Result<usize, Error> {
        self.attribute(sys::PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE)
    }

    /// Peers in the run, all groups together.
    pub fn global_world_size(&self) -> Result<usize, Error> {
        self.attribute(sys::PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE)
    }

    /// Groups that have a peer.
    pub fn distinct_peer_groups(&self) -> Result<usize, Error> {
        self.attribute(sys::PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS)
    }

    /// Peers in the group that has the most.
    pub fn largest_world_size(&self) -> Result<usize, Error> {
        self.attribute(sys::PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE)
    }

    /// This peer's place in its group, as of now.
    pub fn place(&self) -> Result<Place, Error> {
        let mut place = Place { rank: 0, world_size: 0 };
        check(unsafe { sys::pcclGetRank(self.native(), &mut place.rank, &mut place.world_size) }, || {
            "pcclGetRank".into()
        })?;
        Ok(place)
    }

    /// Reduces in place, and blocks until the result is there. After an error the buffer has its input again.
    ///
    /// ```no_run
    /// # let communicator = pccl::Communicator::new(&pccl::Configuration::new("127.0.0.1:48148"))?;
    /// use pccl::{ErrorCode, ReduceOp};
    /// let mut gradient = vec![1f32; 1 << 20];
    /// match communicator.all_reduce(&mut gradient, ReduceOp::Average) {
    ///     Ok(info) => println!("the average of {} peers", info.world_size),
    ///     Err(error) if error.code() == ErrorCode::RankConnectionLost => println!("again, without the lost peer"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), pccl::Error>(())
    /// ```
    pub fn all_reduce<T: Element>(&self, buffer: &mut [T], op: ReduceOp) -> Result<ReduceInfo, Error> {
        self.all_reduce_with(buffer, op, &ReduceOptions::default())
    }

    /// The same with options.
    pub fn all_reduce_with<T: Element>(
        &self,
        buffer: &mut [T],
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<ReduceInfo, Error> {
        let elements = buffer.as_mut_ptr();
        // SAFETY: the buffer is borrowed until the operation has ended.
        unsafe { self.begin_all_reduce(elements, elements, buffer.len(), op, options)?.land() }
    }

    /// Reduces from one buffer into another of the same length, which is undefined after an error.
    pub fn all_reduce_into<T: Element>(
        &self,
        send: &[T],
        receive: &mut [T],
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<ReduceInfo, Error> {
        require_same_length("all_reduce_into", send.len(), receive.len())?;
        // SAFETY: both buffers are borrowed until the operation has ended, and have that length.
        unsafe { self.begin_all_reduce(send.as_ptr(), receive.as_mut_ptr(), send.len(), op, options)?.land() }
    }

    /// [`all_reduce_with`](Self::all_reduce_with), again for as long as peers are lost in it: until it is a success, or
    /// this peer is alone (`TooFewPeers`).
    pub fn all_reduce_with_retry<T: Element>(
        &self,
        buffer: &mut [T],
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<ReduceInfo, Error> {
        loop {
            match self.all_reduce_with(buffer, op, options) {
                Err(error) if error.code() == crate::ErrorCode::RankConnectionLost => {}
                outcome => return outcome,
            }
        }
    }

    /// Reduces several, `max_in_flight` at a time, whoever is lost meanwhile. The tag of the options is not looked at.
    /// After `TooFewPeers` what was not finished has its input.
    pub fn all_reduce_multiple_with_retry(
        &self,
        reductions: &mut [Reduction<'_>],
        max_in_flight: usize,
        options: &ReduceOptions,
    ) -> Result<ReduceInfo, Error> {
        let natives: Vec<_> = reductions.iter().map(|reduction| reduction.native).collect();
        let mut info = sys::pcclReduceInfo_t::default();
        // SAFETY: the buffers are borrowed by the reductions, which nobody else uses meanwhile.
        let result = unsafe {
            sys::pcclAllReduceMultipleWithOptions(
                natives.as_ptr(),
                natives.len(),
                self.native(),
                &options.native(),
                &mut info,
                c_int::try_from(max_in_flight).unwrap_or(c_int::MAX),
            )
        };
        check(result, || "pcclAllReduceMultipleWithOptions".into())?;
        Ok(ReduceInfo::of(info, &[]))
    }

    /// Forgets what error feedback keeps under a tag.
    pub fn free_error_feedback(&self, tag: u64) -> Result<(), Error> {
        check(unsafe { sys::pcclFreeErrorFeedback(self.native(), tag) }, || {
            format!("pcclFreeErrorFeedback (tag {})", tag)
        })
    }

    /// Brings everybody's block to everybody: `receive` is as many blocks of `send` as there are peers, by rank. After
    /// `RankConnectionLost` ask for the [`place`](Self::place) again, and lay it out anew.
    pub fn all_gather<T: Element>(
        &self,
        send: &[T],
        receive: &mut [T],
        options: &ReduceOptions,
    ) -> Result<ReduceInfo, Error> {
        // SAFETY: as in all_reduce_into.
        unsafe {
            self.begin_all_gather(send.as_ptr(), send.len(), receive.as_mut_ptr(), receive.len(), options)?.land()
        }
    }

    /// Reduces everybody's blocks, and gives each peer that of its rank: `send` is as many blocks of `receive` as there
    /// are peers.
    pub fn reduce_scatter<T: Element>(
        &self,
        send: &[T],
        receive: &mut [T],
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<ReduceInfo, Error> {
        // SAFETY: as in all_reduce_into.
        unsafe {
            self.begin_reduce_scatter(send.as_ptr(), send.len(), receive.as_mut_ptr(), receive.len(), op, options)?
                .land()
        }
    }

    /// Brings the buffer of the peer of rank `root` to all others.
    pub fn broadcast<T: Element>(
        &self,
        buffer: &mut [T],
        root: u32,
        options: &ReduceOptions,
    ) -> Result<ReduceInfo, Error> {
        // SAFETY: as in all_reduce_with.
        unsafe { self.begin_broadcast(buffer.as_mut_ptr(), buffer.len(), root, options)?.land() }
    }

    /// Waits until all members have called it with this tag.
    pub fn barrier(&self, tag: u64) -> Result<(), Error> {
        check(unsafe { sys::pcclBarrier(tag, self.native(), ptr::null_mut()) }, || format!("pcclBarrier (tag {})", tag))
    }

    /// Runs `body`, which may begin operations on buffers that outlive this call, and waits at its end for those that
    /// nobody has waited for: also when `body` panics. So buffers may be borrowed by operations in flight, and a handle
    /// that is forgotten does no harm.
    ///
    /// ```no_run
    /// # let communicator = pccl::Communicator::new(&pccl::Configuration::new("127.0.0.1:48148"))?;
    /// use pccl::{ReduceOp, ReduceOptions};
    /// let mut layers = vec![vec![0f32; 1000]; 8];
    /// communicator.scope(|scope| {
    ///     let operations: Result<Vec<_>, _> = layers
    ///         .iter_mut()
    ///         .enumerate()
    ///         .map(|(i, layer)| scope.all_reduce(layer, ReduceOp::Average, &ReduceOptions::tagged(i as u64)))
    ///         .collect();
    ///     operations?.into_iter().try_for_each(|operation| operation.wait().map(drop))
    /// })?;
    /// println!("{}", layers[0][0]);
    /// # Ok::<(), pccl::Error>(())
    /// ```
    ///
    /// A buffer that an operation has cannot be used by anybody else:
    ///
    /// ```compile_fail,E0503
    /// # let communicator = pccl::Communicator::new(&pccl::Configuration::new("127.0.0.1:48148")).unwrap();
    /// use pccl::{ReduceOp, ReduceOptions};
    /// let mut buffer = [0f32; 10];
    /// communicator.scope(|scope| {
    ///     let operation = scope.all_reduce(&mut buffer, ReduceOp::Sum, &ReduceOptions::default()).unwrap();
    ///     let early = buffer[0] + 1.0;
    ///     operation.wait()
    /// });
    /// ```
    ///
    /// nor end before the scope does:
    ///
    /// ```compile_fail,E0597
    /// # let communicator = pccl::Communicator::new(&pccl::Configuration::new("127.0.0.1:48148")).unwrap();
    /// use pccl::{ReduceOp, ReduceOptions};
    /// communicator.scope(|scope| {
    ///     let mut buffer = [0f32; 10];
    ///     std::mem::forget(scope.all_reduce(&mut buffer, ReduceOp::Sum, &ReduceOptions::default()));
    /// });
    /// ```
    pub fn scope<'env, F, R>(&'env self, body: F) -> R
    where
        F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
    {
        run_scope(self, body)
    }

    /// Brings all members to the same content, and the state's revision to the others'. Joint.
    pub fn synchronize(&self, state: &mut SharedState<'_>, strategy: Strategy) -> Result<SyncInfo, Error> {
        state.synchronize(self.native(), strategy)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // SAFETY: nobody borrows it any more, so no thread is inside a call. It succeeds in every state.
        unsafe { sys::pcclDestroyCommunicator(self.native()) };
    }
}

fn require_same_length(call: &str, send: usize, receive: usize) -> Result<(), Error> {
    if send == receive {
        return Ok(());
    }
    Err(Error::invalid_argument(format!("{}: {} elements to send, and room for {}", call, send, receive)))
}

fn blocks(call: &str, one: usize, all: usize) -> Result<u32, Error> {
    if one == 0 || all == 0 || all % one != 0 {
        return Err(Error::invalid_argument(format!(
            "{}: a buffer of {} elements does not have a block for each peer, of {} elements each",
            call, all, one
        )));
    }
    u32::try_from(all / one).map_err(|_| Error::invalid_argument(format!("{}: too many blocks", call)))
}

/// An operation that was begun and has to be awaited.
pub(crate) struct Flight {
    handle: sys::pcclAsyncReduceOp_t,
    parts_at_most: usize,
}

impl Flight {
    pub(crate) fn tag(&self) -> u64 {
        self.handle.tag
    }

    /// Waits until it has ended; the buffers are the caller's again, whatever it came to.
    ///
    /// # Safety
    /// The communicator is alive, and nobody else awaits this operation.
    pub(crate) unsafe fn land(self) -> Result<ReduceInfo, Error> {
        let mut parts = vec![sys::pcclReducePart_t::default(); self.parts_at_most];
        let mut info = sys::pcclReduceInfo_t::default();
        let mut count = 0;
        let buffer = if parts.is_empty() { ptr::null_mut() } else { parts.as_mut_ptr() };
        // SAFETY: the communicator is alive, the caller says; all else is here.
        let result =
            unsafe { sys::pcclAwaitAsyncReduceParts(&self.handle, &mut info, buffer, parts.len(), &mut count) };
        check(result, || format!("pcclAwaitAsyncReduceParts (tag {})", self.handle.tag))?;
        Ok(ReduceInfo::of(info, &parts[..count.min(parts.len())]))
    }
}

// What begins operations. For all of them: the buffers are valid, `send` for reading and `receive` for writing, and
// nobody else writes the one or touches the other, until the flight has landed or the communicator is destroyed. That
// is the caller's promise, and what makes the calls in them safe; the library copies the descriptors and options.
impl Communicator {
    pub(crate) unsafe fn begin_all_reduce<T: Element>(
        &self,
        send: *const T,
        receive: *mut T,
        count: usize,
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<Flight, Error> {
        let descriptor = reduce_descriptor::<T>(count, op, options.tag);
        self.begin("pcclAllReduce", options.tag, options.parts_at_most(count), |handle| unsafe {
            sys::pcclAllReduceAsyncWithOptions(
                send.cast(),
                receive.cast(),
                &descriptor,
                self.native(),
                &options.native(),
                handle,
            )
        })
    }

    pub(crate) unsafe fn begin_all_gather<T: Element>(
        &self,
        send: *const T,
        send_count: usize,
        receive: *mut T,
        receive_count: usize,
        options: &ReduceOptions,
    ) -> Result<Flight, Error> {
        let world_size = blocks("all_gather", send_count, receive_count)?;
        let native_options = options.native();
        let descriptor = collective_descriptor::<T>(send_count, world_size, options.tag, &native_options);
        self.begin("pcclAllGather", options.tag, 0, |handle| unsafe {
            sys::pcclAllGatherAsync(send.cast(), receive.cast(), &descriptor, self.native(), handle)
        })
    }

    pub(crate) unsafe fn begin_reduce_scatter<T: Element>(
        &self,
        send: *const T,
        send_count: usize,
        receive: *mut T,
        receive_count: usize,
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<Flight, Error> {
        let world_size = blocks("reduce_scatter", receive_count, send_count)?;
        let native_options = options.native();
        let descriptor = sys::pcclCollectiveDescriptor_t {
            op: op as u32,
            ..collective_descriptor::<T>(receive_count, world_size, options.tag, &native_options)
        };
        self.begin("pcclReduceScatter", options.tag, 0, |handle| unsafe {
            sys::pcclReduceScatterAsync(send.cast(), receive.cast(), &descriptor, self.native(), handle)
        })
    }

    pub(crate) unsafe fn begin_broadcast<T: Element>(
        &self,
        buffer: *mut T,
        count: usize,
        root: u32,
        options: &ReduceOptions,
    ) -> Result<Flight, Error> {
        let native_options = options.native();
        let descriptor = sys::pcclCollectiveDescriptor_t {
            root,
            ..collective_descriptor::<T>(count, 0, options.tag, &native_options)
        };
        self.begin("pcclBroadcast", options.tag, 0, |handle| unsafe {
            sys::pcclBroadcastAsync(buffer.cast(), &descriptor, self.native(), handle)
        })
    }

    fn begin(
        &self,
        call: &str,
        tag: u64,
        parts_at_most: usize,
        launch: impl FnOnce(*mut sys::pcclAsyncReduceOp_t) -> sys::pcclResult_t,
    ) -> Result<Flight, Error> {
        let mut handle = sys::pcclAsyncReduceOp_t { comm: ptr::null_mut(), tag };
        check(launch(&mut handle), || format!("{} (tag {})", call, tag))?;
        Ok(Flight { handle, parts_at_most })
    }
}

fn reduce_descriptor<T: Element>(count: usize, op: ReduceOp, tag: u64) -> sys::pcclReduceDescriptor_t {
    sys::pcclReduceDescriptor_t {
        count,
        op: op as u32,
        tag,
        src_descriptor: sys::pcclReduceOperandDescriptor_t { datatype: T::DATA_TYPE, distribution_hint: 0 },
        quantization_options: Default::default(),
    }
}

fn collective_descriptor<T: Element>(
    count: usize,
    world_size: u32,
    tag: u64,
    options: &sys::pcclReduceOptions_t,
) -> sys::pcclCollectiveDescriptor_t {
    sys::pcclCollectiveDescriptor_t {
        struct_size: std::mem::size_of::<sys::pcclCollectiveDescriptor_t>(),
        tag,
        count,
        datatype: T::DATA_TYPE,
        op: 0,
        world_size,
        root: 0,
        options,
    }
}

/// One of several all-reduces, for [`Communicator::all_reduce_multiple_with_retry`]. Borrows its buffers.
pub struct Reduction<'a> {
    native: sys::pcclReduceOpDescriptor_t,
    buffers: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for `&mut [T]` and `&[T]` of elements that are Send and Sync.
unsafe impl Send for Reduction<'_> {}

impl<'a> Reduction<'a> {
    /// One in place. Each has a tag of its own.
    pub fn new<T: Element>(buffer: &'a mut [T], op: ReduceOp, tag: u64) -> Reduction<'a> {
        let elements: *mut c_void = buffer.as_mut_ptr().cast();
        Reduction {
            native: sys::pcclReduceOpDescriptor_t {
                sendbuf: elements,
                recvbuf: elements,
                descriptor: reduce_descriptor::<T>(buffer.len(), op, tag),
            },
            buffers: PhantomData,
        }
    }

    /// One from a buffer into another of the same length.
    pub fn into<T: Element>(
        send: &'a [T],
        receive: &'a mut [T],
        op: ReduceOp,
        tag: u64,
    ) -> Result<Reduction<'a>, Error> {
        require_same_length("Reduction::into", send.len(), receive.len())?;
        Ok(Reduction {
            native: sys::pcclReduceOpDescriptor_t {
                // Not written: the C API says so of a sendbuf that is not the recvbuf.
                sendbuf: send.as_ptr() as *mut c_void,
                recvbuf: receive.as_mut_ptr().cast(),
                descriptor: reduce_descriptor::<T>(send.len(), op, tag),
            },
            buffers: PhantomData,
        })
    }
}
