import PCCLBase
import PCCLMembership

/// `/metrics`. Counters begin with the master, and every label that can be is there from the beginning.
extension StatusSnapshot {
    var metrics: String {
        var m = MetricsText()
        m.family("pccl_master_info", .gauge, "Always 1; the release, and the beginning of the run's name.")
        m.sample(1, ["version": version, "run": run ?? ""])
        m.family("pccl_master_start_time_seconds", .gauge, "When the master was started, in seconds since 1970.")
        m.seconds(unix(started))
        m.family("pccl_master_uptime_seconds", .gauge, "Time since the master was started.")
        m.seconds((now - started).seconds)
        writeLead(to: &m)
        writeGroups(to: &m)
        writeChanges(to: &m)
        writeFlushes(to: &m)
        writeJournal(to: &m)
        return m.text
    }

    private func writeLead(to m: inout MetricsText) {
        guard let lead else { return }
        m.family("pccl_master_leads", .gauge, "1: this master leads; 0: another one, or none at the moment.")
        guard case .leads(let term) = lead else { return m.sample(0) }
        m.sample(1)
        m.family("pccl_master_term", .gauge, "Grows whenever a master begins to lead; of the one that does.")
        m.sample(Double(term))
    }

    private func writeGroups(to m: inout MetricsText) {
        m.family("pccl_peers", .gauge, "Peers of a group: members attached or away, and newcomers that wait.")
        for group in groups {
            for standing in Standing.allCases {
                m.count(UInt64(group.count(standing)), ["group": group.label, "state": standing.rawValue])
            }
        }
        m.family("pccl_epoch", .gauge, "Epoch of the group's view.")
        for group in groups { m.count(UInt64(group.epoch.value), ["group": group.label]) }
        m.family("pccl_phase", .gauge, "1 for what the group is in, 0 for all else.")
        for group in groups {
            for name in Phase.Name.allCases {
                m.sample(group.phase.name == name ? 1 : 0, ["group": group.label, "phase": name.rawValue])
            }
        }
        m.family("pccl_joint_call_waiting_peers", .gauge, "Members that wait in a call which others have not made.")
        for group in groups {
            for name in JointCall.Name.allCases {
                let call = group.calls.first { $0.name == name }
                m.count(UInt64(call?.called.count ?? 0), ["group": group.label, "call": name.rawValue])
            }
        }
        m.family(
            "pccl_late_operations", .gauge,
            "Operations that some members have called and others not, for longer than a third of the dead time.")
        for group in groups { m.count(UInt64(group.late.count), ["group": group.label]) }
        m.family("pccl_late_operation_age_seconds", .gauge, "Since when the oldest of these is waited for; 0: none.")
        for group in groups {
            let age = group.late.map { (now - $0.since).seconds }.max() ?? 0
            m.seconds(age, ["group": group.label])
        }
        m.family(
            "pccl_stuck_operations", .gauge,
            "Operations to which a member has brought nothing for a quarter of the dead time, as those say who wait.")
        for group in groups { m.count(UInt64(group.stuck.count), ["group": group.label]) }
        m.family("pccl_silent_peers", .gauge, "Members that were not heard for a third of the dead time.")
        for group in groups { m.count(UInt64(group.silent.count), ["group": group.label]) }
    }

    private func writeChanges(to m: inout MetricsText) {
        m.family("pccl_registrations_total", .counter, "Peers that came to this master for the first time.")
        m.count(tally.registrations)
        m.family("pccl_joins_total", .counter, "Peers that were admitted to a view.")
        m.count(tally.admissions)
        m.family("pccl_leaves_total", .counter, "Members that left, and said so.")
        m.count(tally.departures[.left] ?? 0)
        m.family("pccl_losses_total", .counter, "Members that were lost.")
        for cause in MasterTally.Cause.allCases where cause != .left {
            m.count(tally.departures[cause] ?? 0, ["cause": cause.rawValue])
        }
        m.family(
            "pccl_newcomers_gone_total", .counter, "Peers that went, or were sent away, before they were admitted.")
        for cause in MasterTally.Cause.allCases {
            m.count(tally.newcomersGone[cause] ?? 0, ["cause": cause.rawValue])
        }
        m.family("pccl_detachments_total", .counter, "Connections of members that broke, and were waited for.")
        m.count(tally.detachments)
        m.family("pccl_attachments_total", .counter, "Members that attached again.")
        m.count(tally.attachments)
        m.family("pccl_views_total", .counter, "Views that began with newcomers or in another order.")
        m.count(tally.views)
    }

    private func writeFlushes(to m: inout MetricsText) {
        m.family("pccl_flushes_total", .counter, "Times that a group's operations were interrupted and judged.")
        for cause in FlushResolution.Cause.allCases {
            m.count(tally.flushes[cause] ?? 0, ["cause": cause.rawValue])
        }
        m.family(
            "pccl_verdicts_total", .counter,
            "Verdicts on interrupted operations: one for each operation at each member that had it in flight.")
        for outcome in StatusSnapshot.outcomes { m.count(tally.verdicts[outcome] ?? 0, ["outcome": "\(outcome)"]) }
    }

    private func writeJournal(to m: inout MetricsText) {
        guard let journal else { return }
        m.family("pccl_journal_bytes", .gauge, "Size of the journal's file.")
        m.count(UInt64(journal.bytes))
        m.family("pccl_journal_appends_total", .counter, "Records that were written to the journal.")
        m.count(journal.appends)
        m.family("pccl_journal_failing", .gauge, "1: the last record could not be written.")
        m.sample(journal.hasFailed ? 1 : 0)
    }
}

extension StatusSnapshot.Group {
    fileprivate var label: String { "\(id.value)" }
}
