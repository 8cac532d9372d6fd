import PCCLBase
import PCCLCompute
import PCCLTransport

/// Operations through the host whose buffers are a device's, and copied in pieces: see `Execution`.
extension Engine {
    /// Has the input copied, in the order in which it is needed. Waits for none of it.
    func fetchInput(of execution: Execution) {
        pumpDevice(execution)
        guard execution.lent.device != nil, execution.input != nil else { return }
        let engine = Loan(self)
        execution.askForInput { [loop, launch = execution.launch] segments, result in
            loop.submit { engine.object?.inputCame(launch, segments, result) }
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
        while execution.mayEncode(within: configuration.stagingBytesPerOperation) {
            guard let next = execution.nextToEncode() else { return tellOutOfMemory(execution) }
            let end = begin(.encode(next.segment, next.codes), of: execution)
            coding.encode(next.elements, into: next.codes.base, count: next.count, then: end)
        }
        for fold in execution.coded.folds {
            coding.fold(execution.request(fold), then: begin(.fold(fold), of: execution))
        }
        execution.coded.folds = []
        for (segment, codes) in execution.coded.decodes {
            let (result, count) = (execution.resultAddress(segment), execution.elements(segment).count)
            coding.decode(codes.base, into: result, count: count, then: begin(.decode(codes), of: execution))
        }
        execution.coded.decodes = []
    }

    /// Keeps what the device works on until it has answered, here, since staging is the loop's.
    private func begin(_ work: DeviceTask.Work, of execution: Execution) -> DeviceWorker.End {
        let token = takeToken()
        deviceTasks[token] = DeviceTask(launch: execution.launch, work: work)
        let engine = Loan(self)
        return { [loop] result in loop.submit { engine.object?.deviceHasDone(token, result) } }
    }

    private func deviceHasDone(_ token: Int, _ result: Result<Void, DeviceError>) {
        guard let task = deviceTasks.removeValue(forKey: token) else { return }
        // What has failed may be at work still, on memory that somebody else would have next.
        if case .failure = result { task.abandon() }
        guard !isHalted, let execution = executions[task.launch] else { return }
        if case .failure(let error) = result { return tellDeviceFailed(execution, error) }
        do throws(Execution.Refusal) {
            switch task.work {
            case .encode(let segment, let codes): act(on: try execution.takeCodes(segment, codes), of: execution)
            case .fold(let fold): act(on: execution.end(fold), of: execution)
            case .decode: execution.missingSegments -= 1
            }
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
        if let coding = execution.lent.coding {
            // What was asked for has an end then, although nobody may have heard of it.
            if !succeeded { coding.end() }
            deviceTasks = deviceTasks.filter { $0.value.launch != execution.launch }
        }
        do throws(DeviceError) {
            try execution.lent.device?.settle(succeeded: succeeded)
        } catch {
            tellCannotGoOn(
                "the input of \(execution.descriptor) with \(execution.tag) is not what it was: \(error); this peer leaves the run"
            )
        }
    }
}

/// What a device was asked for, with the staging that it reads and writes.
struct DeviceTask {
    enum Work {
        case encode(DeviceSegment, StagedPiece)
        case fold(FoldOnDevice)
        case decode(StagedPiece)
    }
    var launch: LaunchNumber
    var work: Work

    /// Its staging is never used again, nor given back.
    func abandon() {
        let pieces: [StagedPiece?] =
            switch work {
            case .encode(_, let codes), .decode(let codes): [codes]
            case .fold(let fold): fold.pieces + [fold.codes]
            }
        for case .some(let piece) in pieces { _ = Unmanaged.passRetained(piece) }
    }
}
