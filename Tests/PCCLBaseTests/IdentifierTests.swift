import PCCLBase
import Testing

@Suite("Names for people")
struct IdentifierTests {
    @Test(
        "peers are enumerated, and no more than so many",
        arguments: [
            ([], "nobody"), ([7], "peer 7"), ([7, 9], "peers 7 and 9"), ([1, 2, 3], "peers 1, 2 and 3"),
            ([1, 2, 3, 4, 5], "peers 1, 2, 3 and 2 more"),
        ] as [([UInt64], String)])
    func peers(numbers: [UInt64], text: String) {
        #expect(numbers.map(PeerID.init).enumerated(upTo: 3) == text)
    }
}
