import Glibc
import PCCLBase
import PCCLCompute
import PCCLMembership
import PCCLTransport
import PCCLWire

/// What a master must not forget, on disk: a file of records, each of which is the whole state as it was at a moment. The
/// last one counts, so nothing is ever replayed.
///
/// ```
///   magic and version, 8 bytes │ length, checksum, 4 bytes each │ state │ length, checksum │ state │ …
/// ```
/// A record that is cut short at the end is what a crash leaves behind, and is forgotten. Anything else that cannot be
/// read is refused, and left as it is: it is not ours to overwrite. The file is locked while a master has it.
package final class MasterJournal {
    package struct Problem: Error, CustomStringConvertible {
        package let description: String
    }

    /// What the last master that had this journal had come to; nil if it is new.
    package private(set) var restored: MasterState?
    private let path: String
    private var descriptor: CInt
    private var size: Int
    private var hasFailed = false
    private var appends: UInt64 = 0
    private let generation = ForkedChild.generation

    private static let magic: [UInt8] = [0x7f] + Array("pcclmj".utf8) + [3]
    private static let recordHeader = 8
    /// States are small: a record of a run of a thousand peers takes some 60 KiB.
    private static let largestFile = 512 << 20
    private static let compactedBytes = 1 << 20
    private static let lockAttempts = 50
    private static let lockPauseMicroseconds: useconds_t = 20_000

    package init(at path: String) throws(Problem) {
        self.path = path
        descriptor = -1
        size = 0
        descriptor = try MasterJournal.openLocked(path)
        do throws(Problem) {
            let bytes = try MasterJournal.contents(of: descriptor, path)
            if bytes.isEmpty {
                try write(MasterJournal.magic)
                MasterJournal.synchronizeFolder(of: path)
            } else {
                try take(bytes)
            }
        } catch {
            MasterJournal.letGo(descriptor)
            descriptor = -1
            throw error
        }
    }

    package struct Figures: Hashable, Sendable {
        /// Of the file.
        package var bytes: Int
        /// Records written since this master was started.
        package var appends: UInt64
        /// The last record could not be written.
        package var hasFailed: Bool
        package init(bytes: Int, appends: UInt64, hasFailed: Bool) {
            self.bytes = bytes
            self.appends = appends
            self.hasFailed = hasFailed
        }
    }

    package var figures: Figures { Figures(bytes: size, appends: appends, hasFailed: hasFailed) }

    deinit { if descriptor >= 0, generation == ForkedChild.generation { MasterJournal.letGo(descriptor) } }

    /// Returns when it is on disk. A journal that cannot be written does not end a run: it is said, and tried again with
    /// the next state; until then a master that ends is rebuilt from what its peers report.
    package func append(_ state: MasterState) {
        let record = MasterJournal.record(state)
        do throws(Problem) {
            if size > MasterJournal.compactedBytes,
                size > 8 * record.count || size + record.count > MasterJournal.largestFile / 2
            {
                try compact(record)
            } else {
                try write(record)
            }
            if hasFailed { Log.write(.warning, "the journal \(path) can be written again") }
            hasFailed = false
            appends += 1
        } catch {
            if !hasFailed { Log.write(.error, "\(error.description): if this master ends now, its peers may be lost") }
            hasFailed = true
        }
    }

    // MARK: - reading

    private func take(_ bytes: [UInt8]) throws(Problem) {
        guard bytes.count >= MasterJournal.magic.count, bytes.starts(with: MasterJournal.magic.dropLast()) else {
            // A crash within the first bytes leaves a beginning of them.
            if MasterJournal.magic.starts(with: bytes) {
                ftruncate(descriptor, 0)
                return try write(MasterJournal.magic)
            }
            throw Problem(description: "\(path) is not a journal of pccl-master; it is left as it is")
        }
        guard bytes[MasterJournal.magic.count - 1] == MasterJournal.magic[MasterJournal.magic.count - 1] else {
            throw Problem(description: "\(path) is a journal of another release of pccl-master; it is left as it is")
        }
        var position = MasterJournal.magic.count
        while let payload = MasterJournal.payload(in: bytes, at: position) {
            do {
                restored = try MasterState(Array(payload))
            } catch {
                throw Problem(
                    description: "\(path) holds what this release cannot read (\(error)); it is left as it is")
            }
            position = payload.endIndex
        }
        if position < bytes.count {
            let isDamaged = (position + 1..<bytes.count).contains {
                MasterJournal.payload(in: bytes, at: $0)?.isEmpty == false
            }
            guard !isDamaged else {
                throw Problem(
                    description: "\(path) is damaged at byte \(position), with records behind it; it is left as it is")
            }
            Log.write(
                .warning, "\(path): the last \(bytes.count - position) bytes were cut short by a crash; forgotten")
            ftruncate(descriptor, position)
        }
        size = position
    }

    /// Of a whole record at this place.
    private static func payload(in bytes: [UInt8], at position: Int) -> ArraySlice<UInt8>? {
        guard bytes.count - position >= recordHeader else { return nil }
        var reader = ByteReader(bytes[position..<position + recordHeader])
        guard let length = try? reader.read(UInt32.self), let sum = try? reader.read(UInt32.self),
            length > 0, Int(length) <= bytes.count - position - recordHeader
        else { return nil }
        let payload = bytes[position + recordHeader..<position + recordHeader + Int(length)]
        return checksum(payload) == sum ? payload : nil
    }

    private static func record(_ state: MasterState) -> [UInt8] {
        let payload = state.bytes
        var w = ByteWriter()
        w.write(UInt32(payload.count))
        w.write(checksum(payload[...]))
        return w.bytes + payload
    }

    static func checksum(_ bytes: ArraySlice<UInt8>) -> UInt32 { bytes.withUnsafeBytes { CRC32C($0).value } }

    // MARK: - files

    private func write(_ bytes: [UInt8]) throws(Problem) {
        do throws(Problem) {
            try MasterJournal.write(bytes, to: descriptor, at: size, path)
        } catch {
            // A part of it may be there: the next record takes its place.
            ftruncate(descriptor, size)
            throw error
        }
        size += bytes.count
    }

    /// A new file with this record alone takes the place of the old one.
    private func compact(_ record: [UInt8]) throws(Problem) {
        let newPath = path + ".new"
        unlink(newPath)
        let new = try MasterJournal.openLocked(newPath)
        let bytes = MasterJournal.magic + record
        do throws(Problem) {
            try MasterJournal.write(bytes, to: new, at: 0, newPath)
            guard rename(newPath, path) == 0 else {
                throw Problem(description: SystemError(doing: "renaming \(newPath)").description)
            }
        } catch {
            MasterJournal.letGo(new)
            unlink(newPath)
            throw error
        }
        MasterJournal.synchronizeFolder(of: path)
        MasterJournal.letGo(descriptor)
        descriptor = new
        size = bytes.count
    }

    private static func openLocked(_ path: String) throws(Problem) -> CInt {
        makeFolders(of: path)
        // For its owner alone: it holds what peers prove themselves with.
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw Problem(description: SystemError(doing: "opening the journal \(path)").description)
        }
        ForkedChild.closes(descriptor)
        // A master that was killed a moment ago may not have let go yet.
        for _ in 0..<lockAttempts {
            if flock(descriptor, LOCK_EX | LOCK_NB) == 0 {
                if isStill(descriptor, at: path) { return descriptor }
                // It was replaced by a shorter one meanwhile: that one counts, and its master has it.
                break
            }
            usleep(lockPauseMicroseconds)
        }
        MasterJournal.letGo(descriptor)
        throw Problem(description: "another master has the journal \(path)")
    }

    private static func isStill(_ descriptor: CInt, at path: String) -> Bool {
        var (opened, named) = (stat(), stat())
        guard fstat(descriptor, &opened) == 0, stat(path, &named) == 0 else { return false }
        return opened.st_ino == named.st_ino && opened.st_dev == named.st_dev
    }

    private static func letGo(_ descriptor: CInt) {
        ForkedChild.closesNoMore(descriptor)
        close(descriptor)
    }

    private static func contents(of descriptor: CInt, _ path: String) throws(Problem) -> [UInt8] {
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw Problem(description: "the journal \(path) is not a regular file")
        }
        guard status.st_size <= largestFile else {
            throw Problem(description: "\(path) has \(status.st_size) bytes, which no journal has; it is left as it is")
        }
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
        var count = 0
        while count < bytes.count {
            let read = bytes.withUnsafeMutableBytes {
                pread(descriptor, $0.baseAddress! + count, $0.count - count, count)
            }
            if read < 0, errno == EINTR { continue }
            guard read > 0 else {
                throw Problem(description: SystemError(doing: "reading the journal \(path)").description)
            }
            count += read
        }
        return bytes
    }

    private static func write(_ bytes: [UInt8], to descriptor: CInt, at offset: Int, _ path: String) throws(Problem) {
        var count = 0
        while count < bytes.count {
            let written = bytes.withUnsafeBytes {
                pwrite(descriptor, $0.baseAddress! + count, $0.count - count, offset + count)
            }
            if written < 0, errno == EINTR { continue }
            guard written > 0 else {
                throw Problem(description: SystemError(doing: "writing the journal \(path)").description)
            }
            count += written
        }
        guard fdatasync(descriptor) == 0 else {
            throw Problem(description: SystemError(doing: "writing the journal \(path) to disk").description)
        }
    }

    private static func folder(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// What cannot be made is missed when the file is opened.
    private static func makeFolders(of path: String) {
        let folder = folder(of: path)
        for index in folder.indices.dropFirst() where folder[index] == "/" { mkdir(String(folder[..<index]), 0o700) }
        mkdir(folder, 0o700)
    }

    /// A name is on disk when its folder is.
    private static func synchronizeFolder(of path: String) {
        let descriptor = open(folder(of: path), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        fsync(descriptor)
        close(descriptor)
    }
}
