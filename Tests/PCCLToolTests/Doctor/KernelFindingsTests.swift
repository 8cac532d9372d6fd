import Testing

@testable import pccl

@Suite("What a doctor says of the kernel")
struct KernelFindingsTests {
    @Test("a machine that lacks nothing gets nothing but ok")
    func allWell() {
        #expect(machine().findings.allSatisfy { $0.weight == .ok && $0.change == nil })
    }

    @Test("what the system does not tell is left out, and no fault")
    func nothingKnown() {
        let unknown = machine {
            $0.kernel = Machine.Kernel(neighbour: .readable)
            $0.limits = Machine.Limits(processors: 8, processorsAllowed: 8)
            $0.clock = .untold
        }
        #expect(unknown.findings.allSatisfy { $0.weight == .ok })
        #expect(unknown.finding("net.ipv4.tcp_wmem") == nil)
    }

    // MARK: - buffers

    @Test("a buffer is to be larger once more connections are needed than a link makes at once")
    func buffers() {
        // 12.5 MB over windows of 2.1 MB.
        let usual = machine().finding("net.ipv4.tcp_wmem")
        #expect(usual?.text.contains("or 6 connections a link") == true)

        let fast = machine { $0.wishes.bitsPerSecond = 10e9 }.finding("net.ipv4.tcp_wmem")
        #expect(fast?.weight == .change)
        #expect(fast?.text.contains("60 connections") == true)
        #expect(fast?.change?.commands == [#"sysctl -w net.ipv4.tcp_wmem="4096 16384 67108864""#])
    }

    @Test("the buffer that is proposed is one that gets ok", arguments: [10e9, 25e9, 40e9])
    func proposal(bits: Double) throws {
        let before = machine { $0.wishes.bitsPerSecond = bits }
        for setting in ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"] {
            let command = try #require(before.finding(setting)?.change?.commands.first)
            let value = try #require(command.split(separator: "\"").dropFirst().first)
            let after = machine {
                $0.wishes.bitsPerSecond = bits
                $0.kernel.sendBuffer = SystemText.buffer(String(value))
                $0.kernel.receiveBuffer = SystemText.buffer(String(value))
            }
            #expect(after.finding(setting)?.weight == .ok)
        }
    }

    @Test("it says so when more connections would be needed than there can be")
    func tooFast() {
        let finding = machine { $0.wishes.bitsPerSecond = 100e9 }.finding("net.ipv4.tcp_wmem")
        #expect(finding?.text.contains("of which there are 64 at most") == true)
    }

    @Test("the way is as long as was said, else as was measured to the farthest peer elsewhere, else 100 ms")
    func roundTrip() {
        func call(_ seconds: Double, isWithinHost: Bool = false) -> Machine.Call {
            var call = Machine.Call(callee: .peer, name: "peer", port: 48150)
            call.attempts = [
                .init(
                    address: .loopback(port: 48150), outcome: .answered,
                    path: .init(connectSeconds: seconds, roundTripSeconds: seconds, isWithinHost: isWithinHost))
            ]
            return call
        }
        #expect(machine().roundTrip == (0.1, "assumed"))
        #expect(machine { $0.calls = [call(0.00001, isWithinHost: true)] }.roundTrip == (0.1, "assumed"))
        #expect(machine { $0.calls = [call(0.03), call(0.05)] }.roundTrip == (0.05, "measured"))
        let asked = machine {
            $0.calls = [call(0.05)]
            $0.wishes.roundTripSeconds = 0.2
        }
        #expect(asked.roundTrip == (0.2, "asked for"))
    }

    // MARK: - congestion control

    private func congestion(_ change: (inout Machine) -> Void) -> Finding? {
        machine {
            $0.kernel.congestion = "cubic"
            change(&$0)
        }.finding("net.ipv4.tcp_congestion_control")
    }

    @Test("bbr is proposed by the mildest means that works")
    func proposedMeans() {
        #expect(congestion { _ in }?.change?.commands == ["export PCCL_CONGESTION=bbr"])
        #expect(
            congestion { $0.kernel.allowedCongestions = ["reno", "cubic"] }?.change?.commands
                == ["sysctl -w net.ipv4.tcp_congestion_control=bbr"])
        #expect(
            congestion { $0.kernel.availableCongestions = ["reno", "cubic"] }?.change?.commands
                == ["modprobe tcp_bbr", "sysctl -w net.ipv4.tcp_congestion_control=bbr"])
    }

    @Test("over a short way cubic will do")
    func shortWay() {
        #expect(congestion { $0.wishes.roundTripSeconds = 0.001 }?.weight == .ok)
    }

    @Test("PCCL_CONGESTION counts where this user may choose it, and is a mistake where not")
    func named() {
        #expect(congestion { $0.variables["PCCL_CONGESTION"] = "bbr" }?.weight == .ok)
        func named(_ name: String, _ change: (inout Machine) -> Void = { _ in }) -> Finding? {
            machine {
                $0.variables["PCCL_CONGESTION"] = name
                change(&$0)
            }.findings.first { $0.subject == "PCCL_CONGESTION" && $0.area == .kernel }
        }
        #expect(named("vegas")?.change?.commands == ["modprobe tcp_vegas"])
        #expect(
            named("cubic")?.change?.commands
                == [#"sysctl -w net.ipv4.tcp_allowed_congestion_control="reno bbr cubic""#])
        #expect(named("cubic") { $0.kernel.mayAdminister = true } == nil)
    }

    @Test("a slow start after pauses matters without bbr only, and over a long way only")
    func idle() {
        let setting = "net.ipv4.tcp_slow_start_after_idle"
        let cubic = machine { $0.kernel.congestion = "cubic" }
        #expect(cubic.finding(setting)?.change?.commands == ["sysctl -w \(setting)=0"])
        #expect(machine().finding(setting)?.weight == .ok)
        let chosen = machine {
            $0.kernel.congestion = "cubic"
            $0.variables["PCCL_CONGESTION"] = "bbr"
        }
        #expect(chosen.finding(setting)?.weight == .ok)
        let short = machine {
            $0.kernel.congestion = "cubic"
            $0.wishes.roundTripSeconds = 0.0005
        }
        #expect(short.finding(setting)?.weight == .ok)
    }

    @Test("a short queue of connections is to be made longer")
    func backlog() {
        let finding = machine { $0.kernel.backlog = 128 }.finding("net.core.somaxconn")
        #expect(finding?.change?.commands == ["sysctl -w net.core.somaxconn=1024"])
    }

    @Test("that large packets may vanish is noted")
    func mtuProbing() {
        #expect(machine { $0.kernel.mtuProbing = 0 }.finding("net.ipv4.tcp_mtu_probing")?.weight == .note)
    }

    // MARK: - neighbours

    private func neighbour(_ scope: Int?, _ transport: String = "auto") -> Finding? {
        machine {
            $0.kernel.ptraceScope = scope
            $0.kernel.neighbour = .refused("Operation not permitted")
            $0.variables["PCCL_TRANSPORT"] = transport
        }.finding("process_vm_readv")
    }

    @Test("memory that cannot be read costs speed, and is a fault only where nothing else is allowed")
    func refused() {
        #expect(neighbour(1)?.weight == .change)
        #expect(neighbour(1)?.change?.commands == ["sysctl -w kernel.yama.ptrace_scope=0"])
        #expect(neighbour(1, "tcp")?.weight == .note)
        #expect(neighbour(1, "shm")?.weight == .fault)
    }

    @Test("where Yama is not the reason, a container is", arguments: [nil, 0])
    func container(scope: Int?) {
        #expect(neighbour(scope)?.change?.commands.first?.contains("--cap-add SYS_PTRACE") == true)
    }
}
