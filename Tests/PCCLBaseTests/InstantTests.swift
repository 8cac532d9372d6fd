import PCCLBase
import Testing

@Suite("Time")
struct InstantTests {
    @Test("an interval is the same in every unit")
    func units() {
        #expect(Interval.seconds(1.5) == .milliseconds(1500))
        #expect(Interval.milliseconds(1500).nanoseconds == 1_500_000_000)
        #expect(Interval.seconds(2).milliseconds == 2000)
        #expect(Interval.milliseconds(250).seconds == 0.25)
    }

    @Test("intervals are multiplied and divided")
    func scaling() {
        #expect(Interval.seconds(5) / 5 == .seconds(1))
        #expect(Interval.seconds(5) * 2 == .seconds(10))
        #expect(Interval.seconds(1) < .seconds(2))
    }

    @Test("adding an interval and taking the difference are inverse")
    func differences() {
        let start = Instant(nanoseconds: 1_000)
        let later = start + .milliseconds(3)
        #expect(later > start)
        #expect(later - start == .milliseconds(3))
    }

    @Test("the time since an instant that is yet to come is none: it does not wrap around")
    func future() {
        let start = Instant(nanoseconds: 1_000)
        #expect(start - (start + .seconds(1)) == .milliseconds(0))
    }
}

@Suite("Time-outs")
struct TimeoutsTests {
    @Test("all of them follow from the dead time, in the order that makes sense of them")
    func derived() {
        let timeouts = Timeouts(deadTime: .seconds(5), masterGrace: .seconds(30))
        #expect(Timeouts(deadTime: .seconds(5)).masterGrace == .seconds(0), "nobody waits unless told to")
        #expect(timeouts.firstRedial < timeouts.longestRedial && timeouts.longestRedial < timeouts.deadTime)
        #expect(timeouts.heartbeatPeriod == .seconds(1))
        #expect(timeouts.repairGrace == .milliseconds(100))
        #expect(timeouts.dialPatience == .seconds(5))
        #expect(timeouts.unreachableGrace == .seconds(1))
        #expect(timeouts.repairGrace < timeouts.heartbeatPeriod)
        #expect(timeouts.stragglerPatience < timeouts.deadTime)
        #expect(Timeouts.standard == timeouts)
    }

    @Test("twice the dead time is twice of everything")
    func scale() {
        let one = Timeouts(deadTime: .milliseconds(300))
        let two = Timeouts(deadTime: .milliseconds(600))
        #expect(two.heartbeatPeriod == one.heartbeatPeriod * 2)
        #expect(two.stragglerPatience == one.stragglerPatience * 2)
        #expect(two.repairGrace == one.repairGrace * 2)
        #expect(two.unreachableGrace == one.unreachableGrace * 2)
    }
}

@Suite("Types")
struct TypesTests {
    @Test("the values of types and operations are those of the C API")
    func values() {
        #expect(DataType.allCases.map(\.rawValue) == Array(0...11))
        #expect(ReduceOperation.allCases.map(\.rawValue) == Array(0...4))
        #expect(DataType.allCases.map(\.byteCount) == [1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8])
    }

    @Test("a descriptor says what an error message must show")
    func descriptor() {
        let descriptor = OperationDescriptor(count: 10, type: .float32, operation: .sum, algorithm: .ring)
        #expect(descriptor.byteCount == 40)
        #expect(descriptor.description == "all-reduce(sum, 10 × float32, ring)")
    }
}
