import ArgumentParser
import Glibc
import WANLab

struct WANLabCheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Measures a lab and compares it with its description.")
    @OptionGroup var options: LabOptions
    func run() throws { throw LabError("later") }
}
