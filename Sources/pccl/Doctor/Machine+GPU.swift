import PCCLCompute
import StrictJSON

/// Whether buffers may lie in the memory of a GPU.
extension Machine {
    var gpuFindings: [Finding] {
        switch gpu {
        case .skipped: [.ok(.gpu, "CUDA", "not looked at, as --no-gpu says")]
        case .failed(let reason):
            [
                .fault(
                    .gpu, "CUDA", "the driver did not come to an answer: \(reason)", ["nvidia-smi"],
                    brings: "what the driver's own tool says; a process that uses it would stop in the same place")
            ]
        case .surveyed(let survey, let surroundings):
            [driver(survey, surroundings)] + (survey.state == .ready ? [directPaths(surroundings)] : [])
        }
    }

    private func driver(_ survey: DeviceDriver.Survey, _ surroundings: GPU.Surroundings) -> Finding {
        let reason = survey.obstacle ?? ""
        let figures: [JSONValue.Member] = [
            .init("state", .string(survey.state.rawValue)), .init("driver_version", .integer(survey.version)),
            .init("devices", .array(survey.deviceNames.map { .string($0) })),
        ]
        return judged(survey, surroundings, reason).with(figures)
    }

    private func judged(
        _ survey: DeviceDriver.Survey, _ surroundings: GPU.Surroundings, _ reason: String
    ) -> Finding {
        switch survey.state {
        case .ready:
            return .ok(
                .gpu, "CUDA",
                "driver \(Self.version(survey.version)), \(Self.counted(survey.deviceNames)): buffers of devices can "
                    + "be used; they are copied through pinned memory of the host")
        case .noDriver:
            guard let module = surroundings.kernelModule else {
                return .ok(.gpu, "CUDA", "\(reason): buffers of the host only")
            }
            return .change(
                .gpu, "CUDA", "the kernel has NVIDIA's driver \(module), and this process not its library: \(reason)",
                ["docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ...   (outside: its package)"],
                brings: "buffers of devices")
        case .noDevice:
            let hidden = variable("CUDA_VISIBLE_DEVICES")
            return .note(
                .gpu, "CUDA", reason, ["unset CUDA_VISIBLE_DEVICES", "nvidia-smi -L"],
                brings: "the devices there are" + (hidden == nil ? "" : ", if that variable hides them"))
        case .tooOld:
            return .fault(
                .gpu, "CUDA", reason, ["nvidia-smi"],
                brings: "its version; buffers of devices need one for CUDA 11 or later")
        case .initialisationFailed:
            return .fault(
                .gpu, "CUDA", "the driver cannot be used: \(reason)", ["nvidia-smi"],
                brings: "what the driver's own tool says; until then buffers of devices are refused")
        case .forked: return .note(.gpu, "CUDA", reason)
        }
    }

    private func directPaths(_ surroundings: GPU.Surroundings) -> Finding {
        .ok(
            .gpu, "GPUDirect",
            "nvidia-peermem is \(surroundings.hasPeerMemoryModule ? "" : "not ")loaded: neither it nor dma-buf is used, "
                + "what travels goes through the host")
    }

    private static func version(_ number: Int) -> String { "\(number / 1000).\(number % 1000 / 10)" }

    /// `8 x NVIDIA H100, NVIDIA T4`.
    private static func counted(_ names: [String]) -> String {
        var counts: [(name: String, count: Int)] = []
        for name in names {
            if counts.last?.name == name { counts[counts.count - 1].count += 1 } else { counts.append((name, 1)) }
        }
        return counts.map { $0.count == 1 ? $0.name : "\($0.count) x \($0.name)" }.joined(separator: ", ")
    }
}
