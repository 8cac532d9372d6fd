import ArgumentParser
import PCCL
import Testing

@testable import pccl

@Suite("The options of a demo in rounds")
struct DemoRoundsTests {
    private func rounds(_ arguments: String...) throws -> DemoRounds? {
        try DemoRoundsOptions.parse(arguments).rounds()
    }

    @Test("without --diloco there are no rounds, and nothing to say about them")
    func none() throws {
        #expect(try rounds() == nil)
        #expect(throws: (any Error).self) { try rounds("--codec", "e3m0") }
        #expect(throws: (any Error).self) { try rounds("--sync-every", "20") }
    }

    @Test("what a peer reads is what the demo was told")
    func handedOn() throws {
        for mode in DemoRounds.Mode.allCases {
            let told = try #require(try rounds("--diloco", mode.rawValue, "--codec", "e3m0/64", "--sync-every", "20"))
            #expect(told == DemoRounds(mode: mode, codec: Codec(.e3m0, blockElements: 64), syncEvery: 20))
            #expect(try DemoRoundsOptions.parse(DemoRoundsOptions(told).arguments).rounds() == told)
        }
        #expect(DemoRoundsOptions(nil).arguments.isEmpty)
        #expect(throws: (any Error).self) { try rounds("--diloco", "streaming", "--codec", "e3m1") }
    }

    @Test("runs that could not end well are refused, with what would be possible")
    func refusals() {
        func reason(_ mode: DemoRounds.Mode, _ codec: Codec = .none, syncEvery: Int, steps: Int = 400) -> String? {
            DemoRounds(mode: mode, codec: codec, syncEvery: syncEvery).reasonAgainst(steps: steps)
        }
        for mode in DemoRounds.Mode.allCases {
            for syncEvery in [2, 3, 10, 50] { #expect(reason(mode, Codec(.e3m0), syncEvery: syncEvery) == nil) }
        }
        #expect(reason(.synchronous, syncEvery: 51)?.contains("from 1 to 50") == true)
        #expect(reason(.synchronous, syncEvery: 0) != nil)
        #expect(reason(.streaming, syncEvery: 1)?.contains("at least 2") == true)
        #expect(reason(.delayed, syncEvery: 10, steps: 199)?.contains("at least 200") == true)
        #expect(reason(.delayed, Codec(.minMax32), syncEvery: 10)?.contains("min-max32") == true)
    }
}
