import PCCLBase
import PCCLCompute
import PCCLTransport

/// Operations through the host whose buffers are a device's, and copied in pieces: see `Execution`.
extension Engine {
    /// Has the input copied, in the order in which it is needed. Waits for none of it.
    func fetchInput(of execution: Execution) {
        guard let device = execution.lent.device, execution.input != nil else { return }
        let engine = Loan(self)
        for piece in execution.piecesOfInput {
            device.fetch(piece.parts) { [loop, launch = execution.launch] result in
                loop.submit { engine.object?.inputCame(launch, piece.segments, result) }
            }
        }
    }

    private func inputCame(_ launch: LaunchNumber, _ segments: [DeviceSegment], _ result: Result<Void, DeviceError>) {
        guard !isHalted, let execution = executions[launch] else { return }
        if case .failure(let error) = result { return tellDeviceFailed(execution, error) }
        do throws(Execution.Refusal) {
            var all = FoldProgress()
            for segment in segments {
                let progress = try execution.takeInput(segment)
                all.grants += progress.grants
                all.wakes += progress.wakes
            }
            all.wakes = Set(all.wakes).sorted()
            act(on: all, of: execution)
        } catch {
            tellOutOfMemory(execution)
        }
        tellIfWhole(execution)
    }

    private func tellDeviceFailed(_ execution: Execution, _ error: DeviceError) {
        tellCannotGoOn("\(execution.descriptor) with \(execution.tag) cannot go on: \(error); this peer leaves the run")
    }

    /// What was halted has all of its input, and nothing of it is on the way to or from a device. False if the device fails,
    /// and this peer cannot go on.
    func holdsStill(_ halted: Execution) -> Bool {
        guard let device = halted.lent.device else { return true }
        do throws(DeviceError) {
            try halted.completeInput()
            device.beginAgain()
            return true
        } catch {
            tellDeviceFailed(halted, error)
            return false
        }
    }

    /// The end of it: the caller's memory is the caller's again.
    func settle(_ execution: Execution, succeeded: Bool) {
        do throws(DeviceError) {
            try execution.lent.device?.settle(succeeded: succeeded)
        } catch {
            tellCannotGoOn(
                "the input of \(execution.descriptor) with \(execution.tag) is not what it was: \(error); this peer leaves the run")
        }
    }
}
