package run

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// Another ordinary user, in the group that root has let run on the host's
// enrolment.
const (
	runnerID    = "4002"
	runnerHome  = "/var/home/runner"
	runnerGroup = "runners"
)

// joinedHost joins the second agent host as root, for the runs of the group.
func joinedHost(t *testing.T, args ...string) *lab.Joined {
	t.Helper()
	h := theLab.Agents[1]
	if err := h.Script(t.Context(), "getent group "+runnerGroup+" >/dev/null || { groupadd "+runnerGroup+"; useradd --uid "+runnerID+" --home-dir "+runnerHome+" --create-home --shell /bin/bash --groups "+runnerGroup+" runner; }"); err != nil {
		t.Fatal(err)
	}
	j, err := theLab.StartJoin(t.Context(), h, gateway, args...)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Approve(t.Context(), gateway, "ci"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := h.Run(context.WithoutCancel(t.Context()), "clawpatrol", "leave"); err != nil {
			t.Error(err)
		}
	})
	return j
}

// asRunner returns a command of that user's, with his groups.
func asRunner(ctx context.Context, h *lab.Host, args ...string) *exec.Cmd {
	return h.Command(ctx, append([]string{"setpriv", "--reuid", runnerID, "--regid", runnerID, "--init-groups",
		"env", "-i", "-C", runnerHome, "HOME=" + runnerHome, "USER=runner", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "TERM=dumb"}, args...)...)
}

func TestRun_OnAJoinedHost(t *testing.T) {
	joined := joinedHost(t, "--run-users", runnerGroup)
	run := func(line string) result {
		return finish(t, asRunner(t.Context(), joined.Host, "clawpatrol", "run", "sh", "-c", line))
	}
	r := run(everything).ok(t)
	if !strings.Contains(r.out, "all of it") || !strings.Contains(r.out, lab.PatternHash(3000000)) {
		t.Fatalf("%+v", r)
	}
}
