import PCCLBase
import PCCLWire
import Testing

@Suite("The preamble")
struct PreambleTests {
    @Test("it has sixteen bytes and the layout that docs/protocol.md says")
    func layout() {
        #expect(
            Preamble(role: .stripe).bytes
                == [0x7f, 0x70, 0x63, 0x63, 0x6c, 0x2d, 0x73, 0x77, 12, 0, 2, 0x0d, 0x0a, 0x0d, 0x0a, 0])
        #expect(Preamble(role: .control).bytes.count == Preamble.byteCount)
    }

    @Test("it may come byte by byte, and what follows it is not looked at")
    func byteByByte() throws {
        for role in [Preamble.Role.control, .stripe] {
            let bytes = Preamble(role: role).bytes
            for count in 0..<bytes.count {
                #expect(try Preamble.check(Array(bytes[..<count]), expecting: role) == false)
            }
            #expect(try Preamble.check(bytes, expecting: role))
            #expect(try Preamble.check(bytes + [1, 2, 3], expecting: role))
        }
    }

    @Test("the first wrong byte is enough, and the error shows what came")
    func strangers() {
        #expect(throws: Preamble.Problem.notPCCL(beginsWith: "H")) {
            _ = try Preamble.check(Array("H".utf8), expecting: .control)
        }
        #expect(throws: Preamble.Problem.notPCCL(beginsWith: "HTTP/1.1 400 Bad")) {
            _ = try Preamble.check(Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8), expecting: .control)
        }
        // A TLS alert, with bytes that would upset a terminal.
        #expect(throws: Preamble.Problem.notPCCL(beginsWith: ".......")) {
            _ = try Preamble.check([0x15, 3, 1, 0, 2, 2, 0x16], expecting: .control)
        }
        var late = Preamble(role: .control).bytes
        late[7] = 0
        #expect(throws: Preamble.Problem.notPCCL(beginsWith: ".pccl-s.........")) {
            _ = try Preamble.check(late, expecting: .control)
        }
    }

    @Test("every error has a text that a person can act on")
    func texts() {
        let web = Preamble.Problem.notPCCL(beginsWith: "HTTP/1.1")
        #expect(web.description.contains("HTTP/1.1"))
        #expect(Preamble.Problem.otherVersion(7).description.contains("7"))
        #expect(Preamble.Problem.otherRole(1) != .otherRole(2))
        #expect(Preamble.Problem.otherRole(1).description != Preamble.Problem.otherRole(2).description)
    }

    @Test("another version is named, before the role is looked at")
    func versions() {
        let newer = Preamble(version: 0x0201, role: .stripe).bytes
        #expect(throws: Preamble.Problem.otherVersion(0x0201)) {
            _ = try Preamble.check(newer, expecting: .control)
        }
    }

    @Test("a peer where a master should be, and the other way round, are told apart")
    func roles() {
        #expect(throws: Preamble.Problem.otherRole(2)) {
            _ = try Preamble.check(Preamble(role: .stripe).bytes, expecting: .control)
        }
        #expect(throws: Preamble.Problem.otherRole(1)) {
            _ = try Preamble.check(Preamble(role: .control).bytes, expecting: .stripe)
        }
    }

    @Test("the reserved bytes may be anything: a later version may use them")
    func reserved() throws {
        var bytes = Preamble(role: .control).bytes
        for index in 11..<16 { bytes[index] = 0xff }
        #expect(try Preamble.check(bytes, expecting: .control))
    }
}

@Suite("The greeting of a stripe")
struct StripeHelloTests {
    static let hello = StripeHello(
        run: RunID(high: 1, low: .max), from: PeerID(9), to: PeerID(8), attempt: .max, stripe: 3, stripeCount: 4)

    @Test("it is read as it was written, in forty bytes")
    func roundTrip() throws {
        #expect(Self.hello.bytes.count == StripeHello.byteCount)
        #expect(try StripeHello(Self.hello.bytes) == Self.hello)
    }

    @Test("any other length is an error")
    func lengths() {
        for count in 0..<StripeHello.byteCount {
            #expect(throws: WireError.self) { _ = try StripeHello(Array(Self.hello.bytes[..<count])) }
        }
        #expect(throws: WireError.leftOver(1)) { _ = try StripeHello(Self.hello.bytes + [0]) }
    }

    @Test(
        "a stripe that is not among its link's, and too many stripes, are errors",
        arguments: [
            (4, 4), (5, 4), (.max, .max), (0, UInt16(WireLimits.stripesPerLink) + 1), (0, .max - 1), (256, .max),
        ]
            as [(UInt16, UInt16)])
    func lies(stripe: UInt16, stripeCount: UInt16) {
        var hello = Self.hello
        hello.stripe = stripe
        hello.stripeCount = stripeCount
        #expect(throws: WireError.unknownValue(field: "stripe", value: UInt64(stripe))) {
            _ = try StripeHello(hello.bytes)
        }
    }

    @Test("the most stripes that are allowed are read")
    func most() throws {
        var hello = Self.hello
        hello.stripeCount = UInt16(WireLimits.stripesPerLink)
        hello.stripe = hello.stripeCount - 1
        #expect(try StripeHello(hello.bytes) == hello)
    }

    @Test("a further stripe of a link that stands names no count, and may have any number")
    func further() throws {
        var hello = Self.hello
        hello.stripeCount = 0
        hello.stripe = .max
        #expect(try StripeHello(hello.bytes) == hello)
    }

    @Test("answers other than the five are none")
    func answers() {
        #expect((0...255).compactMap { StripeAnswer(rawValue: $0)?.rawValue } == [1, 2, 3, 4, 5])
    }
}
