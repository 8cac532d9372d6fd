import Glibc
import PCCLBase
import PCCLTestSupport
import Testing

@testable import PCCLSnapshot

@Suite("A save that fails leaves the older snapshots", .serialized, .timeLimit(.minutes(2)))
struct FailureTests {
    @Test("a child that is killed is reported, and leaves nothing but what was there")
    func killed() throws {
        let folder = Folder()
        let tensor = Tensor("a", pattern(64 << 20))
        try folder.save(1, [tensor])
        let writing = try folder.begin(2, [tensor])
        let child = try #require(writing.child)
        kill(child, SIGKILL)
        let problem = folder.problem { try writing.finish() }
        #expect(problem?.description.contains("signal 9") == true, "\(String(describing: problem))")
        #expect(folder.names == [SnapshotName.name(revision: 1)])
        #expect(try folder.load([tensor.blank()]).revision == 1)
        #expect(waitpid(child, nil, WNOHANG) == -1)
    }

    @Test("a child that the program has waited for itself is believed")
    func reaped() throws {
        let folder = Folder()
        let writing = try folder.begin(1, [Tensor("a", [1])])
        let child = try #require(writing.child)
        #expect(waitpid(child, nil, 0) == child)
        try writing.finish()
        #expect(folder.names == [SnapshotName.name(revision: 1)])
        let second = try folder.begin(2, [Tensor("a", pattern(32 << 20))])
        kill(try #require(second.child), SIGKILL)
        #expect(waitpid(try #require(second.child), nil, 0) == second.child)
        #expect(folder.problem { try second.finish() }?.description.contains("status unknown") == true)
    }

    @Test("what a writer that is gone has left is removed by the next save; what one that lives is writing stays")
    func abandoned() throws {
        let folder = Folder()
        let (gone, alive) = (".snapshot-00000000000000000001.1.0.partial", ".snapshot-00000000000000000001.1.1.partial")
        folder.write([1], to: gone)
        folder.write([1], to: alive)
        let file = open("\(folder.path)/\(alive)", O_RDWR | O_CLOEXEC)
        defer { close(file) }
        #expect(flock(file, LOCK_EX) == 0)
        try folder.save(2, [Tensor("a", [1])])
        #expect(folder.names == [alive, SnapshotName.name(revision: 2)])
    }

    @Test("a folder that is missing or no folder is refused at once, as is one that nobody may write")
    func folders() throws {
        let folder = Folder()
        folder.write([], to: "file")
        for path in ["\(folder.path)/none", "\(folder.path)/file", ""] {
            let problem = folder.problem {
                _ = try SnapshotWriting(revision: 1, [], to: path, inBackground: true)
            }
            #expect(problem?.kind == .argument)
        }
        chmod(folder.path, 0o500)
        // Root may write everywhere but here.
        let locked = geteuid() == 0 ? "/proc" : folder.path
        let problem = folder.problem { _ = try SnapshotWriting(revision: 1, [], to: locked, inBackground: true) }
        #expect(problem?.kind == .argument)
        #expect(folder.problem { _ = try Folder().load([]) }?.kind == .absent)
    }

    @Test(
        "a disk that is full is reported, by the child and by the caller, and the process lives",
        arguments: [true, false])
    func full(inBackground: Bool) throws {
        let folder = Folder()
        try folder.save(1, [Tensor("a", [1])])
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
        // It holds for tests that run beside this one, too: none of them writes so much.
        var small = rlimit(rlim_cur: 32 << 20, rlim_max: limit.rlim_max)
        setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &small)
        let problem = folder.problem {
            try folder.save(2, [Tensor("a", pattern(33 << 20))], inBackground: inBackground)
        }
        setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
        #expect(
            problem?.kind == .system && problem?.description.contains("writing") == true,
            "\(String(describing: problem))")
        #expect(folder.names == [SnapshotName.name(revision: 1)])
    }

    @Test("memory that children do not get is an error, and no crash of the child")
    func notForChildren() throws {
        let folder = Folder()
        let memory = mmap(nil, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        defer { munmap(memory, 1 << 16) }
        memset(memory, 1, 1 << 16)
        #expect(madvise(memory, 1 << 16, CInt(MADV_DONTFORK)) == 0)
        let tensor = Tensor("pinned", [UInt8](repeating: 0, count: 1 << 16))
        tensor.base = memory
        let problem = folder.problem { try folder.save(1, [tensor]) }
        #expect(problem?.description.contains("Bad address") == true, "\(String(describing: problem))")
        try folder.save(1, [tensor], inBackground: false)
        #expect(folder.names == [SnapshotName.name(revision: 1)])
    }

    @Test("a save and a load leave no descriptor and no child behind")
    func leaks() throws {
        let folder = Folder()
        let tensor = Tensor("a", pattern(1000))
        let writing = try folder.begin(1, [tensor])
        let child = try #require(writing.child)
        // Of this folder alone: other tests run beside this one.
        #expect(folder.openDescriptors == 1)
        try writing.finish()
        #expect(waitpid(child, nil, WNOHANG) == -1 && errno == ECHILD)
        _ = try folder.load([tensor])
        withExtendedLifetime(writing) { #expect(folder.openDescriptors == 1) }
    }

    @Test("the name of the metadata is no name for a tensor")
    func metadataName() throws {
        let folder = Folder()
        #expect(folder.problem { try folder.save(1, [Tensor("__metadata__", [1])]) }?.kind == .argument)
        #expect(folder.names == [])
    }
}
