import Testing

@testable import pccl

@Suite("Quantities of a plan")
struct QuantityTests {
    @Test(
        "numbers of parameters are read as people write them",
        arguments: [
            ("7e9", 7_000_000_000), ("1.5b", 1_500_000_000), ("350m", 350_000_000), ("70B", 70_000_000_000), ("5", 5),
        ])
    func counts(text: String, count: Int) {
        #expect(Quantity.count(text) == count)
    }

    @Test(
        "rates are decimal, in bits",
        arguments: [("500mbit", 5e8), ("1gbit", 1e9), ("2.5Gbit/s", 2.5e9), ("64kbit", 64e3), ("0.1tbit", 1e11)])
    func rates(text: String, bitsPerSecond: Double) {
        #expect(Quantity.bitsPerSecond(text) == bitsPerSecond)
    }

    @Test(
        "times have a unit", arguments: [("100ms", 0.1), ("2s", 2), ("50us", 5e-5), ("1.5min", 90), ("0ms", 0)])
    func times(text: String, seconds: Double) throws {
        #expect(abs(try #require(Quantity.seconds(text)) - seconds) < 1e-12)
    }

    @Test(
        "what means nothing is refused",
        arguments: ["", "b", "-7e9", "inf", "nan", "0x10", "7 e9", "1e", "0", "1e400", "7q", "1e99"])
    func noCounts(text: String) {
        #expect(Quantity.count(text) == nil)
    }

    @Test(
        "bytes and bare numbers are no rates, and a time has a unit", arguments: ["1", "500MB", "1gb", "100", "mbit"])
    func noUnits(text: String) {
        #expect(Quantity.bitsPerSecond(text) == nil)
        #expect(Quantity.seconds(text) == nil)
    }

    @Test("are written in the largest unit that there is one of")
    func written() {
        #expect(Quantity.count(7_000_000_000) == "7.00 billion")
        #expect(Quantity.count(999_999) == "999999")
        #expect(Quantity.bytes(49e9) == "49.0 GB")
        #expect(Quantity.bytes(999.9e6) == "1.00 GB")
        #expect(Quantity.rate(312.4e6) == "312 Mbit/s")
        #expect(Quantity.rate(0.5) == "0.50 bit/s")
        #expect(Quantity.time(0) == "0 s")
        #expect(Quantity.time(0.15) == "150 ms")
        #expect(Quantity.time(90) == "1.50 min")
        #expect(Quantity.time(43_500) == "12.1 h")
    }
}
