import PCCL
import PCCLBase
import PCCLTransport

/// Shows a master to those who watch it, over HTTP on a thread of its own. The master's loop is asked for a snapshot and
/// never waits for anybody here; that is made text of, and sent, on this side.
///
/// Whoever connects gets one answer within its deadline, or none; what all of them together can hold is bounded.
final class StatusServer: @unchecked Sendable {
    typealias Snapshotting = @Sendable (_ show: @escaping @Sendable (StatusSnapshot) -> Void) -> Bool

    private let loop: EventLoop
    private let limits: HTTPLimits
    private let takeSnapshot: Snapshotting
    /// Where it listens; the port is the real one if 0 was asked for.
    private(set) var address: SocketAddress

    // The loop's thread only.
    private var listener: Listener?
    private var timer: LoopTimer?
    /// Oldest first.
    private var connections: [(number: UInt64, deadline: Instant, connection: HTTPConnection)] = []
    private var nextNumber: UInt64 = 1
    private var pages: StatusPages?
    private var pagesUntil = Instant(nanoseconds: 0)
    /// Who waits for a snapshot, and until when.
    private var waiting: [(number: UInt64, page: StatusPages.Page)] = []
    private var snapshotDeadline: Instant?
    private var snapshotNumber: UInt64 = 0

    /// `takeSnapshot` calls back from any thread; false: it never will, for the master has ended.
    init(
        at address: SocketAddress, limits: HTTPLimits = .standard, takeSnapshot: @escaping Snapshotting
    ) throws(SystemError) {
        self.address = address
        self.limits = limits
        self.takeSnapshot = takeSnapshot
        loop = try EventLoop(name: "pccl-http")
        let opened = Completion<Result<SocketAddress, SystemError>>()
        loop.submit { [self] in opened.set(open(address)) }
        switch opened.wait() {
        case .success(let real): self.address = real
        case .failure(let error):
            close()
            throw error
        }
    }

    /// Ends it: its port is free when this returns.
    func close() {
        loop.submit { [self] in tearDown() }
        loop.stop()
    }

    // MARK: - on the loop's thread

    private func open(_ address: SocketAddress) -> Result<SocketAddress, SystemError> {
        do throws(SystemError) {
            let listener = try Listener(loop, at: address, onAccept: { [weak self] socket, _ in self?.accept(socket) })
            self.listener = listener
            timer = LoopTimer(loop) { [weak self] in self?.keepDeadlines() }
            listener.start()
            return .success(listener.address)
        } catch {
            return .failure(error)
        }
    }

    private func tearDown() {
        listener?.close()
        listener = nil
        timer?.close()
        timer = nil
        for entry in connections { entry.connection.close() }
        connections = []
        waiting = []
    }

    private func accept(_ socket: consuming Socket) {
        if connections.count >= limits.connections {
            drop(at: connections.firstIndex { $0.connection.isIdle } ?? 0)
        }
        let number = nextNumber
        nextNumber += 1
        let connection = HTTPConnection(
            loop, socket, limits,
            onRequest: { [weak self] request in self?.take(request, from: number) },
            onClosed: { [weak self] in self?.forget(number) })
        connections.append((number, loop.now + .seconds(limits.connectionSeconds), connection))
        setTimer()
        connection.start()
    }

    private func drop(at index: Int) {
        let entry = connections.remove(at: index)
        entry.connection.close()
        waiting.removeAll { $0.number == entry.number }
    }

    private func forget(_ number: UInt64) {
        connections.removeAll { $0.number == number }
        waiting.removeAll { $0.number == number }
    }

    private func take(_ request: HTTPRequest, from number: UInt64) {
        switch StatusPages.find(request.path) {
        case .standing(let response): answer(number, response)
        case .missing: answer(number, .text(.notFound, StatusPages.index))
        case .seen(let page):
            if pages != nil, loop.now < pagesUntil { return show(page, to: number) }
            waiting.append((number, page))
            askForSnapshot()
        }
    }

    private func askForSnapshot() {
        guard snapshotDeadline == nil else { return }
        snapshotNumber += 1
        snapshotDeadline = loop.now + .seconds(limits.snapshotSeconds)
        setTimer()
        let isAsked = takeSnapshot { [weak self, number = snapshotNumber] snapshot in
            guard let self else { return }
            loop.submit { self.took(snapshot, number) }
        }
        if !isAsked { refuseWaiting("the master is ending") }
    }

    private func took(_ snapshot: StatusSnapshot, _ number: UInt64) {
        pages = StatusPages(snapshot)
        pagesUntil = loop.now + .seconds(limits.snapshotLifeSeconds)
        if number == snapshotNumber { snapshotDeadline = nil }
        let waiting = self.waiting
        self.waiting = []
        for entry in waiting { show(entry.page, to: entry.number) }
    }

    private func show(_ page: StatusPages.Page, to number: UInt64) {
        // One text for all who ask for it meanwhile.
        guard let response = pages?.response(page) else { return }
        answer(number, response)
    }

    private func answer(_ number: UInt64, _ response: HTTPResponse) {
        connections.first { $0.number == number }?.connection.answer(response)
    }

    private func refuseWaiting(_ reason: String) {
        snapshotDeadline = nil
        let waiting = self.waiting
        self.waiting = []
        for entry in waiting { answer(entry.number, .text(.unavailable, reason)) }
    }

    private func keepDeadlines() {
        let now = loop.now
        if let deadline = snapshotDeadline, deadline <= now {
            refuseWaiting("the master's loop has not answered for \(limits.snapshotSeconds) s")
        }
        while let oldest = connections.first, oldest.deadline <= now { drop(at: 0) }
        setTimer()
    }

    private func setTimer() {
        let deadlines = [connections.first?.deadline, snapshotDeadline].compactMap { $0 }
        if let next = deadlines.min() { timer?.fire(at: next) } else { timer?.cancel() }
    }
}
