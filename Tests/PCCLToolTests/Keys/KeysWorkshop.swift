import Foundation
import Testing

@testable import pccl

/// A folder for one test, and the `openssl` of the command line, which judges what was made there.
final class KeysWorkshop {
    let folder: String
    var authorityPath: String { "\(folder)/authority" }

    init() throws {
        folder = try #require(makeTemporaryFolder("pccl-keys-tests"))
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func makeAuthority(days: Int = 3650, now: Moment = .now) throws -> Authority {
        try Authority.make(in: authorityPath, name: "the authority", days: days, now: now)
    }

    struct Outcome {
        var status: Int32
        var text: String
    }

    /// Standard output and standard error together.
    func openssl(_ arguments: String...) throws -> Outcome {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["openssl"] + arguments
        process.currentDirectoryURL = URL(fileURLWithPath: folder)
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let bytes = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return Outcome(status: process.terminationStatus, text: String(decoding: bytes, as: UTF8.self))
    }

    /// With the authority and the list that lie in the same folder.
    func verify(_ member: String, purpose: String) throws -> Outcome {
        try openssl(
            "verify", "-x509_strict", "-crl_check", "-purpose", purpose, "-CAfile", "\(member)/ca.pem", "-CRLfile",
            "\(member)/revoked.pem", "\(member)/certificate.pem")
    }

    /// Until when the authority's list holds.
    func nextUpdate() throws -> Moment? {
        let line = try openssl("crl", "-noout", "-nextupdate", "-dateopt", "iso_8601", "-in", "authority/revoked.pem")
        let words = line.text.split { $0 == "=" || $0.isWhitespace }
        return words.count == 3 ? Moment(timestamp: "\(words[1])T\(words[2])") : nil
    }

    func mode(_ path: String) throws -> Int {
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        return try #require(attributes[.posixPermissions] as? Int)
    }

    func bytes(_ path: String) throws -> [UInt8] { try #require(try KeyFile.read(path)) }

    func write(_ bytes: [UInt8], to path: String) throws { try Data(bytes).write(to: URL(fileURLWithPath: path)) }

    func names(in path: String) -> [String] { KeyFolder.names(in: path) }
}

/// What the work complains of; nil if it does not.
func problem(_ work: () throws(KeysProblem) -> Void) -> String? {
    do throws(KeysProblem) {
        try work()
        return nil
    } catch {
        return error.description
    }
}
