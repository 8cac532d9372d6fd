import PCCLSession
import Testing

@Suite("The environment")
struct EnvironmentTests {
    @Test("where masters are, and what is no such place")
    func masters() {
        var problems: [String] = []
        let text = "10.0.0.1:48148,[2001:db8::1]:1,master.example:48149,10.0.0.2,2001:db8::1:5,:7,x:0"
        let environment = Environment(
            reading: { $0 == "PCCL_MASTERS" ? text : nil }, onProblem: { problems.append($0) })
        #expect(environment.masters.map(\.host) == ["10.0.0.1", "2001:db8::1", "master.example"])
        #expect(environment.masters.map(\.port) == [48148, 1, 48149])
        #expect(problems.count == 4)
        #expect(problems.first == "PCCL_MASTERS: 10.0.0.2 is not HOST:PORT; it is left out")
    }
}
