import PCCLRecorder
import PCCLSession

extension Communicator {
    /// Writes what the flight recorder holds, the last events of this peer, to a file for `pccl trace`. The file is there as a
    /// whole or not at all; one of that name is replaced. Blocks for as long as the disk takes for at most 8 MiB, and for no
    /// other thread: it may be called while others wait, also when this peer has left the run.
    ///
    /// Throws `.invalidArgument` when the file cannot be written, `.invalidUsage` when nothing is recorded (`PCCL_RECORDER=0`).
    public func dumpRecorder(to path: String) throws(PCCLError) {
        guard session.recorder != nil else {
            throw PCCLError(.invalidUsage, "nothing is recorded: PCCL_RECORDER=0")
        }
        do throws(TraceFileError) {
            try session.dump(to: path, reason: "the program asked for it")
        } catch {
            throw PCCLError(.invalidArgument, "the flight recorder cannot be written: \(error)")
        }
    }
}
