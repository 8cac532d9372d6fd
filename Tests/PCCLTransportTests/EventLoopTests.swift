import Glibc
import PCCLBase
import PCCLTestSupport
@testable import PCCLTransport
import Testing

@Suite("The event loop")
struct EventLoopTests {
    /// What belongs to a loop's thread, handed about by tests that keep to that.
    final class Cell<Value>: @unchecked Sendable {
        var value: Value
        init(_ value: Value) { self.value = value }
    }

    @Test("jobs run in the order in which they were submitted, on one thread", .timeLimit(.minutes(3)))
    func jobsKeepTheirOrder() throws {
        let loop = try EventLoop(name: "test")
        let ran = Mailbox<Int>("jobs")
        let thread = try loop.sync { UInt(pthread_self()) }
        for i in 0..<1000 { loop.submit { if UInt(pthread_self()) == thread { ran.put(i) } } }
        #expect(try ran.take(1000) == Array(0..<1000))
        loop.stop()
    }

    @Test("many threads submit, and each one's jobs keep their order", .timeLimit(.minutes(3)))
    func manySubmitters() throws {
        let loop = try EventLoop(name: "test")
        let counts = Cell([Int](repeating: 0, count: 4))
        let isOrdered = Cell(true)
        _ = try together(4) { submitter in
            for i in 0..<2000 {
                loop.submit {
                    if counts.value[submitter] != i { isOrdered.value = false }
                    counts.value[submitter] += 1
                }
            }
        }
        #expect(try loop.sync { counts.value } == [2000, 2000, 2000, 2000])
        #expect(try loop.sync { isOrdered.value })
        loop.stop()
    }

    @Test("stop runs what was submitted before, and refuses what comes after", .timeLimit(.minutes(3)))
    func stopEndsTheInbox() throws {
        let loop = try EventLoop(name: "test")
        let ran = Mailbox<Int>("jobs")
        for i in 0..<100 { loop.submit { ran.put(i) } }
        loop.stop()
        #expect(ran.all == Array(0..<100))
        #expect(!loop.submit { ran.put(-1) })
        #expect(ran.all.count == 100)
    }

    @Test("threads that submit while it stops get each job run or refused, never lost", .timeLimit(.minutes(3)))
    func submittersRaceWithStop() throws {
        for _ in 0..<30 {
            let loop = try EventLoop(name: "test")
            let ran = Guarded(0)
            let submitters = (0..<3).map { _ in
                InThread { () -> Int in
                    var taken = 0
                    for _ in 0..<200 where loop.submit({ ran.withLock { $0 += 1 } }) { taken += 1 }
                    return taken
                }
            }
            loop.stop()
            let taken = try submitters.map { try $0.result() }.reduce(0, +)
            #expect(ran.withLock { $0 } == taken)
        }
    }

    @Test("a loop can be stopped from one of its own jobs", .timeLimit(.minutes(3)))
    func stopFromInside() throws {
        let loop = try EventLoop(name: "test")
        let stopped = Completion<Bool>()
        loop.submit {
            loop.stop()
            stopped.set(loop.submit {})
        }
        #expect(try !stopped.value())
    }

    @Test("what a turn asks for at its end runs before the next job, and may ask again", .timeLimit(.minutes(3)))
    func endOfTurn() throws {
        let loop = try EventLoop(name: "test")
        let ran = Mailbox<String>("steps")
        // Both jobs wait in the inbox together.
        loop.submit {
            loop.submit {
                loop.atEndOfTurn {
                    ran.put("end")
                    loop.atEndOfTurn { ran.put("end of the end") }
                }
                ran.put("job")
            }
            loop.submit { ran.put("next job") }
        }
        #expect(try ran.take(4) == ["job", "end", "end of the end", "next job"])
        loop.stop()
    }

    @Test("timers fire in the order of their instants, and not before them", .timeLimit(.minutes(3)))
    func timersFireInOrder() throws {
        let loop = try EventLoop(name: "test")
        let fired = Mailbox<(Int, Instant)>("timers")
        let timers = Cell<[LoopTimer]>([])
        let start = try loop.sync { () -> Instant in
            let now = loop.now
            for i in [2, 0, 1] {
                let timer = LoopTimer(loop) { fired.put((i, loop.now)) }
                timers.value.append(timer)
                timer.fire(at: now + .milliseconds(UInt64(10 + 20 * i)))
            }
            return now
        }
        let order = try fired.take(3)
        #expect(order.map(\.0) == [0, 1, 2])
        for (i, at) in order { #expect(at - start >= .milliseconds(UInt64(10 + 20 * i))) }
        try loop.sync { timers.value = [] }
        loop.stop()
    }

    @Test("a new instant replaces the old one; a cancelled or closed timer is silent", .timeLimit(.minutes(3)))
    func timersAreReplaced() throws {
        let loop = try EventLoop(name: "test")
        let fired = Mailbox<String>("timers")
        let timers = Cell<[LoopTimer]>([])
        try loop.sync {
            let now = loop.now
            for name in ["moved", "cancelled", "closed", "last"] {
                timers.value.append(LoopTimer(loop) { fired.put(name) })
            }
            for timer in timers.value { timer.fire(at: now) }
            timers.value[1].cancel()
            timers.value[2].close()
            timers.value[2].fire(at: now)
            timers.value[0].fire(at: now + .milliseconds(20))
            timers.value[3].fire(at: now + .milliseconds(40))
        }
        #expect(try fired.take(2) == ["moved", "last"])
        try loop.sync { timers.value = [] }
        loop.stop()
    }

    @Test("a timer may set itself again, and let itself go, while it fires", .timeLimit(.minutes(3)))
    func timersFromInside() throws {
        let loop = try EventLoop(name: "test")
        let fired = Mailbox<Int>("a timer")
        let timer = Cell<LoopTimer?>(nil)
        let count = Cell(0)
        try loop.sync {
            timer.value = LoopTimer(loop) {
                count.value += 1
                fired.put(count.value)
                if count.value < 5 { timer.value?.fire(at: loop.now) } else { timer.value = nil }
            }
            timer.value?.fire(at: loop.now)
        }
        #expect(try fired.take(5) == [1, 2, 3, 4, 5])
        loop.stop()
    }

    @Test("a poll reports what is not consumed again, and may be closed and freed by what it calls")
    func pollsAreLevelTriggered() throws {
        let loop = try EventLoop(name: "test")
        let (ours, theirs) = socketPair()
        let raw = RawSocket(owning: theirs)
        let seen = Mailbox<UInt8>("bytes")
        let poll = Cell<Poll?>(nil)
        try loop.sync {
            poll.value = Poll(loop, descriptor: ours) { _ in
                var byte: UInt8 = 0
                guard recv(ours, &byte, 1, 0) == 1 else { return }
                seen.put(byte)
                if byte == 3 { poll.value = nil }
            }
            poll.value?.watch(.read)
        }
        makeBlocking(theirs)
        try raw.write([1, 2, 3, 4])
        #expect(try seen.take(3) == [1, 2, 3])
        try loop.sync {}
        #expect(seen.waiting == [])
        close(ours)
        loop.stop()
    }
}
