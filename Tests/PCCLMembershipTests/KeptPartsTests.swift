import PCCLBase
import PCCLMembership
import Testing

/// A part of a view of three, unless it says otherwise.
private func part(_ elements: Range<Int>, of worldSize: Int = 3) -> ResultPart {
    ResultPart(elements: elements, worldSize: worldSize)
}

@Suite("What of a result is kept")
struct KeptPartsTests {
    private func choose(
        _ holdings: [[ResultPart]], of count: Int = 100, oneView: Bool = false, limit: Int = 100
    ) -> [KeptPart] {
        KeptParts.choose(
            from: holdings, elementCount: count, worldSize: 2, isOneViewDemanded: oneView, limit: limit)
    }

    @Test("all that anybody has, divided by who has it")
    func pieces() {
        let kept = choose([[part(0..<20), part(50..<60)], [part(10..<30)]])
        #expect(
            kept == [
                KeptPart(part(0..<10), holders: [0]), KeptPart(part(10..<20), holders: [0, 1]),
                KeptPart(part(20..<30), holders: [1]), KeptPart(part(50..<60), holders: [0]),
            ])
    }

    @Test("neighbours that the same ranks hold are one part, unless other views made them")
    func joined() {
        let kept = choose([[part(0..<5), part(5..<10), part(10..<15, of: 4)], []])
        #expect(kept == [KeptPart(part(0..<10), holders: [0]), KeptPart(part(10..<15, of: 4), holders: [0])])
    }

    @Test("nobody has anything: nothing")
    func nothing() { #expect(choose([[], []]).isEmpty && choose([]).isEmpty) }

    @Test("too many parts: the longest stay, in their order")
    func limit() {
        let parts = (0..<10).map { part($0 * 10..<$0 * 10 + 1 + $0) }
        #expect(choose([parts, []], limit: 3).map(\.part) == Array(parts.suffix(3)))
    }

    @Test("too many parts: neighbours that somebody has both of are one, for those who have both")
    func joinedByHolders() {
        // The first rank has all, the second every second part.
        let holdings = [[part(0..<100)], (0..<10).map { part($0 * 10..<$0 * 10 + 5) }]
        #expect(choose(holdings, limit: 20).count == 20)
        #expect(choose(holdings, limit: 19) == [KeptPart(part(0..<100), holders: [0])])
        #expect(choose(holdings, oneView: true, limit: 3) == [KeptPart(part(0..<100), holders: [0])])
        // Nobody has both of these, so there is nothing to join.
        let split = [(0..<10).map { part($0 * 10..<$0 * 10 + 5) }, (0..<10).map { part($0 * 10 + 5..<$0 * 10 + 10) }]
        #expect(choose(split, limit: 7).count == 7 && choose(split, oneView: true, limit: 19).isEmpty)
    }

    @Test("of one view: all of it or nothing, and what the present one has made")
    func oneView() {
        #expect(choose([[part(0..<60)], [part(50..<99)]], oneView: true).isEmpty)
        #expect(choose([[part(0..<60)], [part(50..<100)]], oneView: true).map(\.part.elements.count) == [50, 10, 40])
        let mixed = choose([[part(0..<60)], [part(60..<90, of: 2)]], oneView: true)
        #expect(mixed == [KeptPart(part(60..<90, of: 2), holders: [1])])
    }

    @Test("peers that contradict each other: nobody is asked for what it does not have")
    func contradiction() {
        let kept = choose([[part(0..<10, of: 3)], [part(5..<10, of: 2)]])
        #expect(kept == [KeptPart(part(0..<10), holders: [0])] || kept.allSatisfy { $0.holders == [0] })
    }
}
