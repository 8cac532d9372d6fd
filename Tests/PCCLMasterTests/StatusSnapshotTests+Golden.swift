/// What ToldMaster.eventful shows.
extension StatusSnapshotTests {
    static let samples = #"""
        pccl_master_info{version="1.2.3",run="01234567"} 1
        pccl_master_start_time_seconds 1800000000
        pccl_master_uptime_seconds 2.75
        pccl_peers{group="0",state="attached"} 1
        pccl_peers{group="0",state="away"} 1
        pccl_peers{group="0",state="newcomer"} 1
        pccl_epoch{group="0"} 2
        pccl_phase{group="0",phase="settled"} 1
        pccl_phase{group="0",phase="optimizing"} 0
        pccl_phase{group="0",phase="linking"} 0
        pccl_phase{group="0",phase="sharing"} 0
        pccl_phase{group="0",phase="flushing"} 0
        pccl_phase{group="0",phase="recovering"} 0
        pccl_joint_call_waiting_peers{group="0",call="update_topology"} 0
        pccl_joint_call_waiting_peers{group="0",call="are_peers_pending"} 1
        pccl_joint_call_waiting_peers{group="0",call="optimize_topology"} 0
        pccl_joint_call_waiting_peers{group="0",call="synchronize_state"} 0
        pccl_late_operations{group="0"} 1
        pccl_late_operation_age_seconds{group="0"} 0.65
        pccl_stuck_operations{group="0"} 0
        pccl_silent_peers{group="0"} 0
        pccl_registrations_total 4
        pccl_joins_total 3
        pccl_leaves_total 0
        pccl_losses_total{cause="disconnected"} 1
        pccl_losses_total{cause="silent"} 0
        pccl_losses_total{cause="unreachable"} 0
        pccl_losses_total{cause="slow"} 0
        pccl_losses_total{cause="straggler"} 0
        pccl_losses_total{cause="violation"} 0
        pccl_losses_total{cause="state"} 0
        pccl_losses_total{cause="ensemble"} 0
        pccl_losses_total{cause="outdated"} 0
        pccl_newcomers_gone_total{cause="left"} 0
        pccl_newcomers_gone_total{cause="disconnected"} 0
        pccl_newcomers_gone_total{cause="silent"} 0
        pccl_newcomers_gone_total{cause="unreachable"} 0
        pccl_newcomers_gone_total{cause="slow"} 0
        pccl_newcomers_gone_total{cause="straggler"} 0
        pccl_newcomers_gone_total{cause="violation"} 0
        pccl_newcomers_gone_total{cause="state"} 0
        pccl_newcomers_gone_total{cause="ensemble"} 0
        pccl_newcomers_gone_total{cause="outdated"} 0
        pccl_detachments_total 1
        pccl_attachments_total 0
        pccl_views_total 3
        pccl_flushes_total{cause="repair"} 0
        pccl_flushes_total{cause="loss"} 0
        pccl_flushes_total{cause="misuse"} 0
        pccl_verdicts_total{outcome="commit"} 0
        pccl_verdicts_total{outcome="restart"} 0
        pccl_verdicts_total{outcome="abort"} 0
        pccl_verdicts_total{outcome="misuse"} 0
        pccl_verdicts_total{outcome="mismatch"} 0
        pccl_verdicts_total{outcome="resume"} 0
        pccl_journal_bytes 4096
        pccl_journal_appends_total 6
        pccl_journal_failing 0
        """#.split(separator: "\n").map(String.init)

    static let group = #"""
        {
          "group": 0,
          "epoch": 2,
          "phase": "settled",
          "phase_waits_for": [],
          "next_epoch": null,
          "flush_cause": null,
          "revision": null,
          "members": [
            {
              "peer": 1,
              "rank": 0,
              "address": "10.0.0.1:48151",
              "state": "attached",
              "since": 1800000000,
              "heard": 1800000002.5
            },
            {
              "peer": 2,
              "rank": 1,
              "address": "10.0.0.1:48152",
              "state": "away",
              "since": 1800000002.5,
              "heard": 1800000002.5
            }
          ],
          "newcomers": [
            {
              "peer": 3,
              "rank": null,
              "address": "10.0.0.1:48153",
              "state": "newcomer",
              "since": 1800000002,
              "heard": 1800000002
            }
          ],
          "calls_since": 1800000002.5,
          "calls": [
            {
              "call": "are_peers_pending",
              "called_by": [
                1
              ],
              "waits_for": [
                2
              ]
            }
          ],
          "late_operations": [
            {
              "tag": "7",
              "since": 1800000002.1,
              "called_by": [
                1
              ],
              "waits_for": [
                2
              ],
              "heard": 1800000002.5
            }
          ]
        }
        """#

    static let history = #"""
        peer 1 at 10.0.0.1:48151 registered
        peer 1 admitted in epoch 1
        peer 2 at 10.0.0.1:48152 registered
        peer 2 admitted in epoch 2
        peer 3 at 10.0.0.1:48153 registered
        peer 4 at 10.0.0.1:48154 registered
        peer 4 admitted in epoch 1
        peer 4 at 10.0.0.1:48154 is lost (disconnected): the connection was "closed"
        the connection of peer 2 broke, and it is waited for: reset
        """#.split(separator: "\n").map(String.init)
}
