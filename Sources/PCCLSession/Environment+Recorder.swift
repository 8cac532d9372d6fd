import PCCLRecorder

extension RecorderConfiguration {
    init(reading environment: (String) -> String?, onProblem: (String) -> Void) {
        if let text = environment("PCCL_RECORDER") {
            if let kibibytes = Int(text), (0...Recorder.largestBytes >> 10).contains(kibibytes) {
                bytes = kibibytes << 10
            } else {
                onProblem(
                    "PCCL_RECORDER=\(text) is not a number of KiB from 0 to \(Recorder.largestBytes >> 10); "
                        + "\(Recorder.usualBytes >> 10) are used")
            }
        }
        directory = environment("PCCL_RECORDER_DIR")
        if let text = environment("PCCL_RECORDER_SIGNAL") {
            signal = RecorderSignal(text)
            if signal == nil { onProblem("PCCL_RECORDER_SIGNAL=\(text) is neither USR1 nor USR2; no signal is taken") }
        }
    }
}
