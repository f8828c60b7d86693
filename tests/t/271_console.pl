# Goal: what the console shows of upstreams, keys and counts is what the servers, walcrypt-ctl and the sessions say; who may only look
# changes nothing; who asks nothing is sent away.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use JSON::PP;
use Test::More;
use Walcrypt;
use Walcrypt::Console;
use Walcrypt::Wire;

my ($red, $blue) = map { Walcrypt::Node->new($_) } qw(red blue);
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue', conninfo => $blue->connstr_for_proxy },
	plain => { keyset => 'none' }, archive => { keyset => 'archive', profile => 1 } });
$proxy->key_init('blue');
$proxy->key_init('archive', '--own-wal-key');
$proxy->start;
sub by { my ($query, $column) = @_; return map { ($_->{$column} => $_) } console_rows($proxy, $query); }

my %up = by('SHOW UPSTREAM', 'node');
is(join(' ', sort keys %up), 'blue red', 'SHOW UPSTREAM: nodes with a conninfo');
is($up{red}{state}, 'unknown', 'nobody has tried it yet');
$blue->init_from_proxy($proxy, 'blue');
%up = by('SHOW UPSTREAM', 'node');
is($up{red}{state}, 'primary', 'it is a primary');
my $version = $red->safe_psql('postgres', 'SHOW server_version_num');
is($up{red}{version}, int($version / 10000) . '.' . $version % 10000, 'its version');
is($up{red}{system_identifier}, $red->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'), 'its cluster');
is("$up{red}{timeline} $up{red}{checksums}", '1 on', 'its timeline, and that it has checksums');
is($up{blue}{state}, 'unknown', 'a node is no upstream of its own');
my $archive = Walcrypt::Wire->connect($proxy);
$archive->startup(user => 'archive', replication => 'true');
$archive->until('ZE');
%up = by('SHOW UPSTREAM', 'node');
is($up{blue}{state}, 'failed', 'the one that does not run yet could not be used');
like($up{blue}{last_failure}, qr/could not connect to upstream "blue": .*Connection refused|could not connect to upstream "blue": .*No such file/, 'and why');
undef $archive;
$blue->append_conf('postgresql.conf', "wal_receiver_status_interval = 1s\n");
$blue->start;
wait_for('the standby', sub { my ($s) = grep { $_->{application_name} eq 'blue' } console_rows($proxy, 'SHOW STANDBYS'); $s && $s->{state} eq 'streams' && $s->{lag_bytes} eq '0' });
wait_for('the sessions of the base backup to end', sub { %up = by('SHOW UPSTREAM', 'node'); $up{red}{sessions} == 1 });
is($up{red}{sessions}, 1, 'one session streams from it');
my $lsn = $red->safe_psql('postgres', 'SELECT pg_logical_emit_message(false, $$x$$, $$y$$)');
wait_for('the end of WAL', sub { my %u = by('SHOW UPSTREAM', 'node'); $red->safe_psql('postgres', "SELECT '$u{red}{wal_end_lsn}' >= '$lsn'::pg_lsn") eq 't' });
ok(1, 'where its WAL ends is known from the stream');

# keys: the ids that walcrypt-ctl shows; of the keys themselves nothing
my @keys = console_rows($proxy, 'SHOW KEYS');
is(join(' ', map { "$_->{keyset}:$_->{key}:$_->{state}" } @keys),
	'archive:cluster:current archive:relation:current archive:wal:current blue:cluster:current blue:relation:current blue:wal:current', 'SHOW KEYS');
for my $keyset (qw(archive blue)) {
	my $show = decode_json(ctl('key', 'show', $keyset, '--config', $proxy->conf, '--json'));
	my %id = map { ($_->{key} => $_->{key_id}) } grep { $_->{keyset} eq $keyset } @keys;
	is("$id{cluster} $id{relation} $id{wal}", "$show->{kek_id} $show->{relation_id} $show->{epochs}[0]{id}", "$keyset: the ids are those of walcrypt-ctl key show");
}
cmp_ok($keys[4]{age_s}, '<', 300, 'a relation key made just now');
is($keys[4]{nodes}, 'blue', 'whose it is');
$keys[5]{created} =~ /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$/ or fail("created: $keys[5]{created}");

# counts
my %stats = by('SHOW STATS', 'node');
is($stats{blue}{backups}, 1, 'SHOW STATS: one base backup');
is($stats{blue}{backups_failed}, 0, 'none failed');
cmp_ok($stats{blue}{bytes_sent}, '>', 20_000_000, 'bytes sent');
cmp_ok($stats{blue}{bytes_received}, '>', 20_000_000, 'bytes received');
command_fails([ 'pg_basebackup', '-D', PostgreSQL::Test::Utils::tempdir() . '/x', '-d', $proxy->connstr('plain') ], 'a node that may not');
my $refused = $stats{plain} ? $stats{plain}{errors_refused} : 0;
%stats = by('SHOW STATS', 'node');
cmp_ok($stats{plain}{errors_refused}, '>', $refused, 'its refusal is counted');

# a backup under way: how far it is
my $slow = Walcrypt::Wire->connect($proxy);
$slow->startup(user => 'blue', replication => 'true', application_name => 'slow');
$slow->until('ZE');
$slow->send('Q', "BASE_BACKUP (LABEL 'x', PROGRESS, CHECKPOINT 'fast', WAIT false)\0");
my $s = wait_for('the backup', sub { my ($r) = grep { $_->{application_name} eq 'slow' && $_->{backup_since} } console_rows($proxy, 'SHOW SESSIONS'); $r && $r->{backup_done} > 0 ? $r : undef });
cmp_ok($s->{backup_size}, '>', 20_000_000, 'the estimate that the server gave');
cmp_ok($s->{backup_done}, '<', $s->{backup_size}, 'nobody reads, so it is not done');
undef $slow;
wait_for('the backup to be given up', sub { my %n = by('SHOW STATS', 'node'); $n{blue}{backups_failed} == 1 });
ok(1, 'a backup that was given up is counted as failed');

# who may only look
for my $query ('RELOAD', 'SHUTDOWN', 'PAUSE', 'RESUME') {
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-XAt', '-d', $proxy->connstr('monitor') . ' dbname=walcrypt', '-c', $query ], '<', \undef, '>', \$out, '2>', \$err);
	like($err, qr/user "monitor" may look at the console, not change anything/, "stats_users: $query is refused");
}
my @help = map { $_->{query} } console_rows($proxy, 'SHOW HELP');
for my $query (grep { /^SHOW/ } @help) {
	my @rows = console_rows($proxy, $query);
	ok(@rows > 0, "stats_users: $query");
}
is(scalar(grep { /^SHOW (SESSIONS|STANDBYS|UPSTREAM|KEYS|STATS|CONFIG|VERSION)$/ } @help), 7, 'SHOW HELP has them all');
my ($out, $err) = ('', '');
IPC::Run::run([ 'psql', '-XAt', '-d', $proxy->connstr('blue') . ' dbname=walcrypt', '-c', 'SHOW KEYS' ], '<', \undef, '>', \$out, '2>', \$err);
like($err, qr/may not use walcrypt's console/, 'a node may not even look');
unlike($proxy->console('SHOW CONFIG'), qr/password/, 'SHOW CONFIG has no connection strings of nodes');

# who asks nothing
$proxy->{settings}{console_idle_timeout} = '4s';
$proxy->{settings}{auth_conninfo} = 'host=127.0.0.1 user=asker password=tellnobody';
$proxy->write_conf;
is(($proxy->console('RELOAD'))[1], '', 'admin_users: RELOAD');
wait_for('the reload', sub { $proxy->log =~ /reloaded/ });
like($proxy->console('SHOW CONFIG'), qr/^auth_conninfo\|user=asker password=\*{8} host=127\.0\.0\.1\|/m, 'SHOW CONFIG: a connection string without its password');
my $idle = Walcrypt::Wire->connect($proxy);
$idle->startup(user => 'monitor', database => 'walcrypt');
my ($seen) = $idle->until('Z');
for (1 .. 3) {
	$idle->send('Q', "SHOW VERSION\0");
	($seen) = $idle->until('Z');
}
like($seen, qr/Z$/, 'who asks is answered');
my ($types, $last) = $idle->until('E');
my %fields = Walcrypt::Wire::fields($last);
is($fields{C}, '57P05', 'who asks nothing for console_idle_timeout is told so');
wait_for('the session to end', sub { !grep { $_->{node} eq 'monitor' && $_->{state} eq 'ready' } console_rows($proxy, 'SHOW SESSIONS') });
undef $idle;
my $pid = $proxy->pid;
$proxy->console('SHUTDOWN');
wait_for('the proxy to end', sub { waitpid($pid, POSIX::WNOHANG()) == $pid });
is($?, 0, 'admin_users: SHUTDOWN ends the proxy with exit 0');
$proxy->{pid} = undef;
done_testing();
