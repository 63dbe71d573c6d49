package qemu

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// A restored VM that has its memory goes on where it was, once: as soon as the
// guest has written to a disk, memory and disks are of one instant no more. So the
// script puts the state away before the guest runs. QEMU leaves a VM that was saved
// while it stood still standing still; the script tells it to go on, over a monitor
// of its own made of a pipe and a file, as a shell can use these.

// savedStart is what a script needs to bring a VM back running.
type savedStart struct {
	path    string // of the state
	version string // of QEMU: its first two numbers
	machine string
	cpu     string
	accel   string // kvm or tcg; empty: not recorded
	options string // of the accelerator: it and what the VM had with it
	hostCPU string
	agent   string // the chardev of the guest agent; empty: none
}

// state is the restored file of the memory, or nil.
func (r *rewriter) state() *snapshot.RestoredFile {
	i := slices.IndexFunc(r.vm.Files, func(f snapshot.RestoredFile) bool { return f.Role == snapshot.RoleSavedState })
	if i < 0 {
		return nil
	}
	return &r.vm.Files[i]
}

// resume adds what brings back the memory.
func (r *rewriter) resume() {
	f := r.state()
	if f == nil {
		return
	}
	hw := r.vm.Hardware
	r.out.saved = &savedStart{path: here(r.dir, f.Now), version: mainVersion(hw.Version), machine: hw.Machine, cpu: hw.CPU,
		accel: hw.Accelerator, options: hw.Accelerator, hostCPU: hw.HostCPU, agent: r.agent()}
	for _, a := range r.out.accels {
		if name, _, _ := strings.Cut(a, ","); name == hw.Accelerator {
			r.out.saved.options = a
		}
	}
	if !slices.ContainsFunc(r.out.options, func(o option) bool { return o.name == "machine" || o.name == "M" }) {
		r.add("machine", escape(hw.Machine))
	}
	r.remark("the guest goes on from its saved memory at the first start; where its agent answers its clock is set, else it is behind by the time since")
}

// agent is the one guest-agent channel of the VM, by a name that needs no quotes.
func (r *rewriter) agent() string {
	for id := range r.agents {
		if len(r.agents) == 1 && regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`).MatchString(id) {
			return id
		}
	}
	return ""
}

// versioned names the machine exactly: what an alias such as q35 stands for changes
// with QEMU.
func versioned(kv keyval, machine string) keyval {
	if machine == "" {
		return kv
	}
	if kv.has("type") {
		return kv.with("type", machine)
	}
	out := kv
	out.pairs = slices.Clone(kv.pairs)
	if len(out.pairs) > 0 && out.pairs[0].key == "" {
		out.pairs[0].value = machine
		return out
	}
	out.pairs = slices.Insert(out.pairs, 0, pair{value: machine})
	return out
}

// mainVersion is what a stream depends on: 7.2 of 7.2.22.
func mainVersion(version string) string {
	return regexp.MustCompile(`^[0-9]+\.[0-9]+`).FindString(version)
}

// script is the part of boot.sh that comes before QEMU's start: it refuses a QEMU
// that the state does not fit, and leaves the arguments that load it in "$@".
func (s *savedStart) script() string {
	q := snapshot.ShellWord
	return fmt.Sprintf(strings.TrimLeft(resumeScript, "\n"), q(s.path), q(s.version), q(s.machine), q(s.cpu),
		q(s.accel), q(s.options), q(s.hostCPU), q(s.agent))
}

const resumeScript = `
# The guest's memory. It is used once, and never after the guest has run from its disks.
state=%s saved_version=%s saved_machine=%s saved_cpu=%s
saved_accel=%s saved_accel_options=%s saved_host_cpu=%s saved_agent=%s
refuse() {
	echo "boot.sh: $1" >&2
	echo "boot.sh: to start the guest from its disks alone: ./boot.sh --cold" >&2
	exit 1
}
# The guest's clock goes on from when it was saved. Its agent is asked to set it, over
# a pipe that takes the place of the agent's socket meanwhile.
set_clock() {
	if [ -z "$saved_agent" ]; then return; fi
	rm -f clock.in clock.out clock.log
	mkfifo -m 600 clock.in clock.out
	exec 6<>clock.in 7<>clock.out
	cat <&7 >clock.log &
	clock=$!
	echo '{"execute":"chardev-change","arguments":{"id":"'"$saved_agent"'","backend":{"type":"pipe","data":{"device":"./clock"}}}}' >&4
	printf '\377{"execute":"guest-sync-delimited","arguments":{"id":1}}\n{"execute":"guest-set-time","arguments":{"time":%%s000000000}}\n' "$(date +%%s)" >&6
	tries=50
	# What comes before the answer to the first is about half a request of before.
	while [ $tries -gt 0 ] && ! sed '1,/"return": 1}/d' clock.log | grep -q '"return"\|"error"'; do
		tries=$((tries - 1))
		sleep 0.2
	done
	echo '{"execute":"chardev-change","arguments":{"id":"'"$saved_agent"'","backend":{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"./qga.sock"}},"server":true,"wait":false}}}}' >&4
	kill $clock
	exec 6<&- 7<&-
	rm -f clock.in clock.out clock.log
}
if [ "${1:-}" = --cold ]; then
	shift
	if [ -e "$state" ]; then mv -f -- "$state" "$state.unused"; fi
fi
if [ -e "$state" ]; then
	version=$("$program" --version | sed -n 's/.*version \([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p' | head -n 1)
	if [ "$(printf '%%s\n' "$saved_version" "$version" | sort -V | head -n 1)" != "$saved_version" ]; then
		refuse "the memory was saved by QEMU $saved_version, and $program is QEMU $version"
	fi
	if ! "$program" -machine help | cut -d ' ' -f 1 | grep -qxF -- "$saved_machine"; then
		refuse "the memory is that of machine type $saved_machine, which $program does not have"
	fi
	if ! "$program" -cpu help | grep -qwF -- "$saved_cpu"; then
		refuse "the memory is that of CPU model $saved_cpu, which $program does not have"
	fi
	LULL_ACCEL=${LULL_ACCEL:-$saved_accel_options}
	if [ -n "$saved_accel" ] && [ "${LULL_ACCEL%%%%,*}" != "$saved_accel" ]; then
		refuse "the guest ran under $saved_accel, and LULL_ACCEL is $LULL_ACCEL"
	fi
	if [ "$saved_accel" = kvm ] && ! [ -w /dev/kvm ]; then
		refuse "the guest ran under KVM, which cannot be used here"
	fi
	host_cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
	if [ -n "$saved_host_cpu" ] && [ "$saved_host_cpu" != "$host_cpu" ]; then
		refuse "the guest had its host's processor, $saved_host_cpu, and this is $host_cpu"
	fi
	rm -f resume.in resume.out resume.log
	mkfifo -m 600 resume.in resume.out
	case $(printf '%%s\n' 8.2 "$version" | sort -V | head -n 1) in
	8.2) incoming="file:$state" ;; # newer ones take no open file that is not a pipe
	*) exec 3<"$state" && incoming=fd:3 ;;
	esac
	set -- -incoming "$incoming" -chardev pipe,id=lull-resume,path=./resume -mon chardev=lull-resume,mode=control "$@"
	( (
		exec 3<&- 4<>resume.in 5<>resume.out </dev/null >/dev/null
		umask 077
		cat <&5 >resume.log &
		reader=$!
		echo '{"execute":"qmp_capabilities"}' >&4
		while kill -0 $$ 2>/dev/null; do
			echo '{"execute":"query-status"}' >&4
			sleep 0.2
			case $(tail -n 1 resume.log) in
			*'"status": "paused"'*)
				if [ -e "$state" ]; then
					mv -f -- "$state" "$state.used" && sync -- "$state.used" . || break
				fi
				echo '{"execute":"cont"}' >&4
				;;
			*'"status": "running"'*)
				set_clock
				break
				;;
			esac
		done
		kill $reader
		if kill -0 $$ 2>/dev/null; then exec 6<resume.out; else exec 6</dev/null; fi
		rm -f resume.in resume.out resume.log
		exec cat <&6 4>&- 5>&- # what QEMU goes on to say; it ends with QEMU
	) & )
fi
`
