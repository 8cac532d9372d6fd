/// The page at `/`: one text that needs nothing else, no other address and no build. It asks for `/api/status` each second,
/// and writes what it gets as text only, for reasons and addresses come from peers.
enum LivePage {
    static let response = HTTPResponse(
        status: .ok, contentType: "text/html; charset=utf-8", body: Array(html.utf8),
        policy: "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'")

    static let html = #"""
        <!doctype html>
        <html lang="en">
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>pccl-master</title>
        <style>
        :root { color-scheme: light dark; --ink: #1b1f24; --faint: #5b6570; --line: #d5dae0; --paper: #fff; --ground: #f4f6f8;
          --good: #13703d; --wait: #8a5300; --bad: #b3261e; }
        @media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --faint: #9aa4af; --line: #323a43; --paper: #171b20;
          --ground: #0e1114; --good: #5fd38d; --wait: #f0b454; --bad: #ff8a80; } }
        * { box-sizing: border-box; }
        body { margin: 0 auto; padding: 1rem; max-width: 70rem; font: 15px/1.5 system-ui, sans-serif;
          color: var(--ink); background: var(--ground); }
        h1 { font-size: 1.15rem; margin: 0; } h2 { font-size: 1rem; margin: 0 0 .4rem; }
        header { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; margin-bottom: 1rem; }
        section { background: var(--paper); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem;
          margin-bottom: 1rem; }
        .scroll { overflow-x: auto; } :focus-visible { outline: 2px solid var(--good); outline-offset: 2px; }
        table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
        th, td { text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0; white-space: nowrap; }
        th { color: var(--faint); font-weight: 500; border-bottom: 1px solid var(--line); }
        td.n, th.n { text-align: right; } td.long { white-space: normal; width: 100%; overflow-wrap: anywhere; }
        .faint { color: var(--faint); } .attached { color: var(--good); } .away, .lost { color: var(--bad); }
        .newcomer, .waits { color: var(--wait); } p { margin: .4rem 0 0; }
        #stale { margin: 0 0 1rem; padding: .5rem 1rem; border: 1px solid var(--bad); border-radius: .5rem; color: var(--bad); }
        [hidden] { display: none !important; }
        </style>
        <header><h1>pccl-master</h1><span id="about" class="faint">asks the master …</span></header>
        <div id="stale" role="alert" hidden></div>
        <main id="groups"></main>
        <section aria-labelledby="history-title"><h2 id="history-title">Last changes</h2>
        <div class="scroll" tabindex="0" role="region" aria-labelledby="history-title" id="history"></div></section>
        <noscript>This page needs JavaScript; the same is at <a href="api/status">api/status</a>.</noscript>
        <script>
        "use strict";
        const byId = id => document.getElementById(id);
        // Everything that is shown goes through here, as text.
        function make(tag, attributes, ...children) {
          const node = document.createElement(tag);
          for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
          node.append(...children.map(child => child instanceof Node ? child : String(child)));
          return node;
        }
        function span(seconds) {
          const s = Math.max(0, Math.round(seconds));
          if (s < 120) return s + " s";
          if (s < 7200) return Math.floor(s / 60) + " min";
          if (s < 172800) return Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
          return Math.floor(s / 86400) + " days";
        }
        const clock = at => new Date(at * 1000).toLocaleTimeString();
        const names = peers => !peers.length ? "nobody" : (peers.length > 1 ? "peers " : "peer ") +
          peers.slice(0, 12).join(", ") + (peers.length > 12 ? " and " + (peers.length - 12) + " more" : "");
        function table(heads, rows) {
          const cell = (tag, [text, style]) => make(tag, style ? { class: style } : {}, text);
          return make("table", {}, make("thead", {}, make("tr", {}, ...heads.map(h => cell("th", h)))),
            make("tbody", {}, ...rows.map(row => make("tr", {}, ...row.map(c => cell("td", c))))));
        }
        function waits(group, now, stuck) {
          const lines = stuck.filter(s => s.group === group.group).map(s => s.text);
          if (group.phase !== "settled") lines.push(group.phase + (group.flush_cause ? " after " + group.flush_cause : "") +
            (group.phase_waits_for.length ? ": waits for " + names(group.phase_waits_for) : ""));
          for (const c of group.calls) if (c.waits_for.length) lines.push(c.call + ": " + names(c.called_by) +
            " called it; waits for " + names(c.waits_for) + (group.calls_since ? ", " + span(now - group.calls_since) : ""));
          const named = new Set(stuck.map(s => s.group + "/" + s.tag));
          for (const o of group.late_operations) if (!named.has(group.group + "/" + o.tag)) lines.push("the operation with tag " + o.tag + ": " + names(o.called_by) +
            " called it, the first " + span(now - o.since) + " ago; waits for " + names(o.waits_for));
          return lines;
        }
        function section(group, now, stuck) {
          const title = "Group " + group.group, away = group.members.filter(m => m.state === "away").length;
          const summary = [group.members.length + (group.members.length === 1 ? " member" : " members")];
          if (away) summary.push(away + " away");
          if (group.newcomers.length) summary.push(group.newcomers.length + " waiting to be admitted");
          return make("section", { "aria-label": title },
            make("h2", {}, title, " · epoch " + group.epoch + " · ", make("span", { class: "faint" }, summary.join(", "))),
            make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "peers of " + title },
              table([["rank", "n"], ["peer", "n"], ["address"], ["state"], ["since"], ["last heard"]],
                group.members.concat(group.newcomers).map(p => [[p.rank === null ? "–" : p.rank, "n"], [p.peer, "n"],
                  [p.address || "?"], [p.state, p.state], [span(now - p.since)], [span(now - p.heard) + " ago"]]))),
            ...waits(group, now, stuck).map(line => make("p", { class: "waits" }, line)));
        }
        function show(s) {
          document.title = "pccl-master: " + s.groups.reduce((n, g) => n + g.members.length, 0) + " members";
          const parts = [s.version, "up " + span(s.uptime_seconds)];
          if (s.run) parts.push("run " + s.run);
          if (s.lead) parts.push(s.lead.leads ? "leads in term " + s.lead.term
            : s.lead.leader ? "stands by while " + s.lead.leader + " leads" : "stands by, and nobody leads");
          if (s.journal) parts.push("journal " + (s.journal.failing ? "cannot be written" : s.journal.bytes + " bytes"));
          if (s.rebuilding) parts.push("takes over what its peers report");
          byId("about").textContent = parts.join(" · ");
          put("groups", s.groups.length ? s.groups.map(g => section(g, s.now, s.stuck))
            : [make("section", {}, "No peer is here.")]);
          put("history", [s.history.length ? table([["time"], ["group", "n"], ["epoch", "n"], ["what"]],
            s.history.slice().reverse().map(c => [[clock(c.at)], [c.group, "n"], [c.epoch, "n"],
              [c.text, "long" + (c.event === "lost" || c.event === "detached" ? " lost" : "")]]))
            : make("span", { class: "faint" }, "Nothing yet.")]);
        }
        // What is as it was stays, with its selection and its focus.
        function put(id, nodes) {
          const old = byId(id), next = old.cloneNode(false);
          next.append(...nodes);
          if (next.innerHTML === old.innerHTML) return;
          const focused = [...old.querySelectorAll("[tabindex]")].indexOf(document.activeElement);
          old.replaceChildren(...next.childNodes);
          if (focused >= 0) old.querySelectorAll("[tabindex]")[focused]?.focus({ preventScroll: true });
        }
        let seen = null;
        async function ask() {
          try {
            const answer = await fetch("api/status", { cache: "no-store", signal: AbortSignal.timeout(4000) });
            if (!answer.ok) throw new Error((await answer.text()).trim());
            show(await answer.json());
            seen = new Date();
            byId("stale").hidden = true;
          } catch (error) {
            const since = seen ? "Stale since " + seen.toLocaleTimeString() : "Nothing was heard yet";
            const text = since + ": the master does not answer (" + error.message + ").";
            if (byId("stale").textContent !== text) byId("stale").textContent = text;
            byId("stale").hidden = false;
          }
          setTimeout(ask, 1000);
        }
        ask();
        </script>
        </html>

        """#
}
