import PCCLBase
import PCCLCompute
import PCCLTransport

/// Operations through the host whose buffers are a device's, and copied in pieces: see `Execution`.
extension Engine {
    /// Has the input copied, in the order in which it is needed. Waits for none of it.
    func fetchInput(of execution: Execution) {
        pumpDevice(execution)
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

    // MARK: codes

    /// Has a device do what there is to code, to fold and to decode.
    func pumpDevice(_ execution: Execution) {
        guard let coding = execution.lent.coding, !isHalted else { return }
        let engine = Loan(self)
        let launch = execution.launch
        while execution.mayEncode(within: configuration.stagingBytesPerOperation) {
            guard let next = execution.nextToEncode() else { return tellOutOfMemory(execution) }
            let kept = Kept(next)
            coding.encode(next.elements, into: next.codes.base, count: next.count) { [loop] result in
                loop.submit {
                    guard let made = kept.take() else { return }
                    engine.object?.deviceHasDone(launch, result) { (execution) throws(Execution.Refusal) in
                        try execution.takeCodes(made.segment, made.codes)
                    }
                }
            }
        }
        for fold in execution.coded.folds {
            let kept = Kept(fold)
            coding.fold(execution.request(fold)) { [loop] result in
                loop.submit {
                    guard let fold = kept.take() else { return }
                    engine.object?.deviceHasDone(launch, result) { (execution) throws(Execution.Refusal) in
                        execution.end(fold)
                    }
                }
            }
        }
        execution.coded.folds = []
        for decode in execution.coded.decodes {
            let count = execution.elements(decode.segment).count
            let kept = Kept(decode.codes)
            let result = execution.resultAddress(decode.segment)
            coding.decode(decode.codes.base, into: result, count: count) { [loop] result in
                loop.submit {
                    _ = kept.take()
                    engine.object?.deviceHasDone(launch, result) { (execution) throws(Execution.Refusal) in
                        execution.missingSegments -= 1
                        return FoldProgress()
                    }
                }
            }
        }
        execution.coded.decodes = []
    }

    private func deviceHasDone(
        _ launch: LaunchNumber, _ result: Result<Void, DeviceError>,
        _ go: (Execution) throws(Execution.Refusal) -> FoldProgress
    ) {
        guard !isHalted, let execution = executions[launch] else { return }
        if case .failure(let error) = result { return tellDeviceFailed(execution, error) }
        do throws(Execution.Refusal) {
            act(on: try go(execution), of: execution)
        } catch {
            tellOutOfMemory(execution)
        }
        pumpDevice(execution)
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
        if !succeeded { execution.lent.coding?.end() }
        do throws(DeviceError) {
            try execution.lent.device?.settle(succeeded: succeeded)
        } catch {
            tellCannotGoOn(
                "the input of \(execution.descriptor) with \(execution.tag) is not what it was: \(error); this peer leaves the run"
            )
        }
    }
}

/// What belongs to the loop's thread, on its way through another one that does not look at it: taken out there, so that it
/// does not end elsewhere.
private final class Kept<Value>: @unchecked Sendable {
    private var value: Value?
    init(_ value: Value) { self.value = value }
    func take() -> Value? { value.take() }
}
