# Goal: without a proof nothing is promoted, and the old primary goes on after --abort: it was killed instead of stopped; was started
# and stopped again; wrote after its shutdown checkpoint; came up as a standby; or the stream was cut one byte before its end. In each case the very part
# that is broken says so. The nodes are controlled by commands here.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Relay;

# Cuts the stream one byte before the end of a message that ends with a shutdown checkpoint, while the file "cut" is there.
package CutRelay;
our @ISA = ('Walcrypt::Relay');

sub carry
{
	my ($self, $client) = @_;
	my $server = IO::Socket::UNIX->new(Peer => $self->{to}) or return;
	my $both = IO::Select->new($client, $server);
	my $held = '';
	while (my @ready = $both->can_read) {
		for my $from (@ready) {
			sysread($from, my $data, 65536) or return;
			if ($from == $client) { syswrite($server, $data) == length $data or return; next; }
			$held .= $data;
			# whole messages only; the answers before the first one to a StartupMessage have this shape, too
			while (length $held >= 5 && length $held > (my $len = unpack('N', substr($held, 1, 4)))) {
				my $message = substr($held, 0, 1 + $len, '');
				my $cut = -e "$self->{dir}/cut" && substr($message, 0, 1) eq 'd' && substr($message, 5, 1) eq 'w' && length $message > 145 && $self->ends_with_shutdown(substr($message, -120));
				chop $message if $cut;
				syswrite($client, $message) == length $message or return;
				return if $cut;
			}
		}
	}
	return;
}

# XLogRecord: total length 114, info XLOG_CHECKPOINT_SHUTDOWN, resource manager XLOG
sub ends_with_shutdown { my ($self, $record) = @_; my ($len, $info, $rmid) = unpack('L x12 CC', $record); return $len == 114 && $info == 0 && $rmid == 0; }

package main;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 200ms\nwal_keep_size = 128MB\nautovacuum = off\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t (i int)');
my $blue = Walcrypt::Node->new('blue');
my $relay = CutRelay->new($red);
$relay->start;
my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($dir, $log) = ($red->data_dir, $red->logfile);
# a dead server that nobody has reaped yet looks alive to the next one
my $lock = $red->host . '/.s.PGSQL.' . $red->port . '.lock';
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => 'host=127.0.0.1 port=' . $relay->port . ' sslmode=disable gssencmode=disable user=' . (getpwuid($<))[0], control_conninfo => $red->connstr_for_proxy,
		control => "sh $tmp/control %a", control_data => "pg_controldata $dir", fence => "sh $tmp/fence" },
	blue => { conninfo => $blue->connstr_for_proxy, keyset => 'blue' } });
$proxy->key_init('blue', '--system-identifier', $red->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'));
$proxy->start;
$blue->init_from_proxy($proxy, 'blue');
$blue->start;

my $console = "psql -XAtq -d '" . $proxy->connstr('walcrypt_admin') . " dbname=walcrypt'";
my $sql = "psql -XAtq -d '" . $red->connstr_for_proxy . " dbname=postgres'";
PostgreSQL::Test::Utils::append_to_file("$tmp/fence", "case \$1 in on) : >$dir/standby.signal;; off) rm -f $dir/standby.signal;; esac\n");
PostgreSQL::Test::Utils::append_to_file("$tmp/control", <<"END");
set -e
stop() { [ ! -e $dir/postmaster.pid ] || pg_ctl -D $dir -m fast -w stop >/dev/null; }
start() { pg_ctl -D $dir -l $log -w restart >/dev/null 2>&1; }
# until all its processes are gone
gone() { while (for p in /proc/[0-9]*/cwd; do [ "\$(readlink \$p)" != $dir ] || exit 0; done; exit 1); do sleep 0.05; done; rm -f $dir/postmaster.pid $lock; }
[ "\$1" = stop ] || { [ -e $dir/postmaster.pid ] || start; exit 0; }
mode=\$(cat $tmp/mode)
echo stop >$tmp/mode
case \$mode in
kill) kill -9 \$(head -1 $dir/postmaster.pid); gone;;
again) stop; $console -c 'PAUSE blue' >/dev/null; rm $dir/standby.signal; start; $sql -c 'INSERT INTO t VALUES (0)'; stop;;
wrote) stop; $console -c 'PAUSE blue' >/dev/null; rm $dir/standby.signal; start; $sql -c 'INSERT INTO t VALUES (0)'; kill -9 \$(head -1 $dir/postmaster.pid); gone;;
standby) stop; start; stop;;
refuse) echo 'not today' >&2; exit 3;;
*) stop;;
esac
END
my @switchover = ('switchover', '--config', $proxy->conf);
my $rows = 0;

# What the mode leads to: parts that hold and do not, and what is said; then back.
sub broken
{
	my ($mode, $parts, $why) = @_;
	unlink "$tmp/mode";
	PostgreSQL::Test::Utils::append_to_file("$tmp/mode", $mode);
	$red->safe_psql('postgres', "INSERT INTO t VALUES ($rows)");
	$red->wait_for_catchup('blue');
	my ($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue', '--timeout', 20);
	is($rc, 7, "$mode: stopped midway") or diag($out, $err);
	like($err, qr/^ERROR:  the proof does not hold, so nothing is promoted\nDETAIL:.*\nHINT:  "red" can be started again: walcrypt-ctl switchover --abort/m, "$mode: and why");
	my ($proof) = $out =~ /the old primary is stopped\n(.*)/s;
	is(join(' ', map { /^  (ok|FAIL) / ? $1 : () } split(/\n/, $proof)), $parts, "$mode: what holds") or diag($out);
	like($proof, $why, "$mode: the reason");
	is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', "$mode: the standby is one");
	if ($mode eq 'kill') {
		($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue');
		is($rc, 7, 'another cannot begin');
		like($err, qr/a switchover from "red" to "blue" was stopped midway, in state "stopped"/, 'and it is said why');
		($rc, $out, $err) = ctl_output(@switchover, '--resume');
		is($rc, 7, 'to go on is no way out: the proof fails again');
	}
	($rc, $out, $err) = ctl_output(@switchover, '--abort');
	is($rc, 0, "$mode: everything is put back") or diag($err, slurp_file($log));
	is($red->safe_psql('postgres', "SELECT pg_is_in_recovery() OR NOT EXISTS (SELECT FROM t WHERE i = $rows)"), 'f', "$mode: the primary is back, with its rows");
	ok(!-e "$dir/standby.signal", "$mode: without a fence");
	$rows++;
	$red->safe_psql('postgres', "INSERT INTO t VALUES ($rows)");
	wait_for('the standby', sub { ($blue->psql('postgres', "SELECT count(*) FROM t WHERE i = $rows"))[1] eq '1' });
	return;
}
broken('kill', 'FAIL FAIL FAIL FAIL', qr/is no shutdown checkpoint.*did not end with the walsender's CommandComplete: (lost|error).*pg_control says "in production"/s);
broken('again', 'ok ok FAIL ok', qr/the old primary was shut down at \S+, which is not where the stream ended/);
broken('wrote', 'ok ok FAIL ok', qr/pg_control says "in production"/);
broken('standby', 'ok ok FAIL ok', qr/pg_control says "shut down in recovery"/);
PostgreSQL::Test::Utils::append_to_file("$relay->{dir}/cut", '');
broken('cut', 'FAIL FAIL FAIL FAIL', qr/is no shutdown checkpoint.*did not end with the walsender's CommandComplete: lost.*which is not where the stream ended/s);
unlink "$relay->{dir}/cut";

# a primary that refuses to stop
unlink "$tmp/mode";
PostgreSQL::Test::Utils::append_to_file("$tmp/mode", 'refuse');
$red->wait_for_catchup('blue');
my ($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue');
is($rc, 7, 'a primary that refuses to stop');
like($err, qr/control of node "red": command ended with exit status 3.*not today/s, 'its command says why');
is($red->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', 'it is the primary');

# and with all parts it goes on from there
($rc, $out, $err) = ctl_output(@switchover, '--resume');
is($rc, 0, 'it stops at last: the rest is done') or diag($out, $err);
is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', 'the standby is the primary');
is($blue->safe_psql('postgres', 'SELECT count(DISTINCT i) FROM t'), $rows + 1, 'with every row');
($rc, $out, $err) = ctl_output(@switchover, '--abort');
is($rc, 6, 'there is nothing to abort');
$red->_update_pid(0);
$blue->stop;
done_testing();
