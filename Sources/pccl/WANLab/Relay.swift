import CShims
import Glibc
import PCCLBase
import WANLab

/// What the lab's wires are made of: one thread that holds the other ends of all TUN devices, reads what the nodes send,
/// asks the `Network` when and whether it arrives, and writes it then.
final class Relay {
    private var network: Network
    private let pool: PacketPool
    private let tuns: [CInt]
    private let epoll: CInt
    private let wakeUp: CInt
    private var control: ControlSocket
    private var events: [LabEvent]
    private var eventsBegan: Instant?
    private var isStopping = false
    private var thread = pthread_t()

    /// One of each is always ready to be read into: how large a packet is, one knows when it was read.
    private var small: Slot?
    private var large: Slot?
    private let parts = UnsafeMutablePointer<iovec>.allocate(capacity: 2)

    private(set) var unwritten: UInt64 = 0
    private(set) var processorNanoseconds: UInt64 = 0
    private var began: Instant

    /// How many packets are read from a node before the others have their turn.
    private static let readsPerTurn = 16
    private static let wakeToBegin: UInt64 = 1
    private static let wakeToStop: UInt64 = 1 << 32

    init(_ configuration: LabConfiguration, tuns: [CInt], control: consuming ControlSocket) throws(LabError) {
        pool = PacketPool(PacketPool.Sizes(smallPacketBytes: configuration.mtu))
        network = Network(configuration, pool: pool)
        events = configuration.events.sorted { $0.after < $1.after }
        self.tuns = tuns
        self.control = control
        began = Instant(nanoseconds: monotonicNanoseconds())
        epoll = epoll_create1(CInt(EPOLL_CLOEXEC))
        wakeUp = eventfd(0, CInt(EFD_CLOEXEC | EFD_NONBLOCK))
        guard epoll >= 0, wakeUp >= 0 else { throw LabError("cannot make an event loop: \(systemError())") }
        for descriptor in tuns + [wakeUp, self.control.listener] { watch(descriptor) }
    }

    deinit {
        parts.deallocate()
        for descriptor in [epoll, wakeUp] { close(descriptor) }
    }

    // MARK: From the main thread

    func start() throws(LabError) {
        let context = Unmanaged.passUnretained(self).toOpaque()
        guard pthread_create(&thread, nil, relayThreadMain, context) == 0 else {
            throw LabError("cannot start a thread: \(systemError())")
        }
    }

    /// From now on the events' time counts.
    func beginEvents() { wake(Self.wakeToBegin) }

    /// After it returns nothing is carried any more, and the counts may be read.
    func stopAndWait() {
        wake(Self.wakeToStop)
        pthread_join(thread, nil)
    }

    private func wake(_ reason: UInt64) {
        var reason = reason
        _ = write(wakeUp, &reason, 8)
    }

    func report() -> [String] {
        var lines = network.inspected.map { name, link in
            "\(name) packets=\(link.counts.packets) bytes=\(link.counts.bytes) lost=\(link.counts.lost) "
                + "dropped=\(link.counts.dropped)"
        }
        let seconds = Double(monotonicNanoseconds() - began.nanoseconds) / 1e9
        if !isStopping { noteProcessorTime() }
        lines.append(
            "relay seconds=\(rounded(seconds)) processor_seconds=\(rounded(Double(processorNanoseconds) / 1e9)) "
                + "withheld=\(network.withheld) unroutable=\(network.unroutable) unwritten=\(unwritten) "
                + "out_of_memory=\(network.outOfMemory)")
        return lines
    }

    private func rounded(_ value: Double) -> Double { (value * 1000).rounded() / 1000 }

    // MARK: On its own thread

    fileprivate func run() {
        // Without them it is less exact under load, and no less right.
        _ = pccl_shim_become_real_time()
        _ = pccl_shim_wake_precisely()
        var ready = Array(repeating: epoll_event(), count: tuns.count + 8)
        while !isStopping {
            let now = Instant(nanoseconds: monotonicNanoseconds())
            network.advance(to: now)
            deliver()
            performEvents(at: now)
            let count = pccl_shim_epoll_wait(epoll, &ready, CInt(ready.count), nanosecondsToSleep(since: now))
            for event in ready.prefix(max(0, Int(count))) { handle(Int(event.data.fd), event.events) }
        }
        noteProcessorTime()
    }

    private func handle(_ descriptor: Int, _ conditions: UInt32) {
        let descriptor = CInt(descriptor)
        if descriptor == wakeUp {
            var reasons: UInt64 = 0
            _ = read(wakeUp, &reasons, 8)
            if reasons >= Self.wakeToStop { isStopping = true }
            if reasons % Self.wakeToStop > 0 { eventsBegan = Instant(nanoseconds: monotonicNanoseconds()) }
        } else if descriptor == control.listener {
            if let client = control.accept() { watch(client) }
        } else if control.owns(descriptor) {
            for line in control.readLines(descriptor) { control.answer(descriptor, answer(to: line)) }
        } else {
            readPackets(descriptor)
        }
    }

    private func readPackets(_ tun: CInt) {
        for _ in 0..<Self.readsPerTurn {
            if small == nil { small = pool.takeSmall() }
            if large == nil { large = pool.takeLarge() }
            guard let small, let large else { return discardPacket(tun) }
            let split = pool.smallSlotBytes
            parts[0] = iovec(iov_base: pool.memory(small), iov_len: split)
            parts[1] = iovec(iov_base: pool.memory(large) + split, iov_len: PacketPool.largeSlotBytes - split)
            let count = readv(tun, parts, 2)
            guard count > VirtioHeader.size else { return }
            let isLarge = count > split
            if isLarge { pool.memory(large).copyMemory(from: pool.memory(small), byteCount: split) }
            let slot = isLarge ? large : small
            if isLarge { self.large = nil } else { self.small = nil }
            network.receive(
                slot, byteCount: count - VirtioHeader.size, at: Instant(nanoseconds: monotonicNanoseconds()))
        }
    }

    /// Else the loop would be told of it again and again.
    private func discardPacket(_ tun: CInt) {
        var byte: UInt8 = 0
        _ = read(tun, &byte, 1)
        network.outOfMemory += 1
    }

    private func deliver() {
        while let slot = network.nextDelivery() {
            let frame = pool.frame(slot)
            let written = write(tuns[Int(pool[slot].to)], frame.baseAddress, frame.count)
            if written != frame.count { unwritten += 1 }
            pool.giveBack(slot)
        }
    }

    private func performEvents(at now: Instant) {
        guard let eventsBegan else { return }
        while let event = events.first, eventsBegan + event.after <= now {
            events.removeFirst()
            let seconds = plain(event.after.seconds)
            do {
                writeAll("wanlab: at \(seconds) s: \(try network.perform(event.action, at: now))\n", to: STDERR_FILENO)
            } catch { writeAll("wanlab: at \(seconds) s: \(error)\n", to: STDERR_FILENO) }
        }
    }

    private func nanosecondsToSleep(since turn: Instant) -> Int64 {
        var next = network.nextArrival.map { max($0, turn + network.leastPause) }
        if let eventsBegan, let event = events.first {
            next = min(next ?? Instant(nanoseconds: .max), eventsBegan + event.after)
        }
        guard let next else { return -1 }
        return Int64(clamping: (next - Instant(nanoseconds: monotonicNanoseconds())).nanoseconds)
    }

    private func answer(to line: String) -> String {
        if line == "stats" { return report().map { $0 + "\n" }.joined() + "ok\n" }
        do throws(LabError) {
            let done = try network.perform(
                try LabAction(command: line), at: Instant(nanoseconds: monotonicNanoseconds()))
            return "ok \(done)\n"
        } catch { return "error \(error)\n" }
    }

    private func watch(_ descriptor: CInt) {
        var event = epoll_event()
        event.events = EPOLLIN.rawValue
        event.data.fd = descriptor
        epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event)
    }

    private func noteProcessorTime() {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        processorNanoseconds = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

private func relayThreadMain(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let context { Unmanaged<Relay>.fromOpaque(context).takeUnretainedValue().run() }
    return nil
}
