import PCCLTestSupport
import PCCLTransport
import Testing

@Suite("Guarded and Completion")
struct LockTests {
    @Test("no update is lost between threads", .timeLimit(.minutes(3)))
    func updatesAreExclusive() throws {
        let counter = Guarded(0)
        _ = try together(4) { _ in for _ in 0..<5000 { counter.withLock { $0 += 1 } } }
        #expect(counter.withLock { $0 } == 20_000)
    }

    @Test("a completion keeps its first value, and tells every thread that waits", .timeLimit(.minutes(3)))
    func firstValueStands() throws {
        let completion = Completion<Int>()
        let waiters = (0..<4).map { _ in InThread { completion.wait() } }
        #expect(completion.current == nil)
        completion.set(1)
        completion.set(2)
        for waiter in waiters { #expect(try waiter.result() == 1) }
        #expect(completion.current == 1)
        #expect(completion.wait() == 1)
    }

    @Test("of many that set it at once, exactly one value reaches all observers", .timeLimit(.minutes(3)))
    func racingSetters() throws {
        for _ in 0..<200 {
            let completion = Completion<Int>()
            let seen = Mailbox<Int>("observed values")
            completion.whenSet { seen.put($0) }
            _ = try together(3) { completion.set($0) }
            completion.whenSet { seen.put($0) }
            #expect(seen.all == [completion.wait(), completion.wait()])
        }
    }

    @Test("a task is suspended until the value is there", .timeLimit(.minutes(3)))
    func asynchronousOutcome() async {
        let completion = Completion<Int>()
        startThread { completion.set(7) }
        #expect(await completion.outcome() == 7)
        #expect(await completion.outcome() == 7)
    }
}
