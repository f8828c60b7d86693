# Goal: the console knows of each standby how far it is, which record was the last one, and how its stream ended, also when its session
# is gone. What it says is compared with what the servers themselves know.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Console;
use Walcrypt::Wire;

my ($red, $blue, $green) = map { Walcrypt::Node->new($_) } qw(red blue green);
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\nautovacuum = off\n");
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy },
	blue => { keyset => 'blue', conninfo => $blue->connstr_for_proxy }, green => { keyset => 'green', upstream => 'blue' } });
$proxy->key_init($_) for qw(blue green);
$proxy->start;

# the standby's row as a hash; undef: none
sub row
{
	my ($node, $application) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-XA', '-F', '|', '-d', $proxy->connstr('monitor') . ' dbname=walcrypt', '-P', 'footer=off', '-c', 'SHOW STANDBYS' ], '<', \undef, '>', \$out, '2>', \$err)
		or die "SHOW STANDBYS: $err";
	my @rows = map { [ split /\|/, $_, -1 ] } split /\n/, $out;
	my $names = shift @rows;
	my @found = grep { $_->{node} eq $node && $_->{application_name} eq $application } map { my %r; @r{@$names} = @$_; \%r } @rows;
	cmp_ok(scalar @found, '<=', 1, "$node: one row") if @found > 1;
	return $found[0];
}
sub wait_row
{
	my ($what, $node, $application, $code) = @_;
	return wait_for($what, sub { my $r = row($node, $application); $r && $code->($r) ? $r : undef });
}
sub lsn { my ($text) = @_; my ($h, $l) = $text =~ m{^([0-9A-F]+)/([0-9A-F]+)$} or return -1; return (hex($h) << 32) + hex($l); }
sub control { my ($node, $field) = @_; my ($text) = slurp_control($node) =~ /^\Q$field\E:\s+(.*)$/m; return $text; }
sub slurp_control { my ($node) = @_; return scalar `pg_controldata @{[ $node->data_dir ]}`; }

$blue->init_from_proxy($proxy, 'blue');
$blue->append_conf('postgresql.conf', "wal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 200ms\n");
is(row('blue', 'blue'), undef, 'a standby that has not come yet has no row');
ok(wait_for('the end of its stream', sub { !row('blue', $ENV{PGAPPNAME}) }), 'nor has what fetched the WAL of its base backup, when it is over');
system_or_bail('pg_receivewal', '-D', PostgreSQL::Test::Utils::tempdir('archive'), '--no-loop', '--endpos', $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'), '-d', $proxy->connstr('blue'));
my $archive = wait_row('the end of the stream', 'blue', $ENV{PGAPPNAME}, sub { $_[0]{state} eq 'ended' });
is($archive ? "$archive->{state} $archive->{end}" : '', 'ended client', 'another stream is remembered: the client ended it');
$blue->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) i');
my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
my $r = wait_row('the standby to replay', 'blue', 'blue', sub { lsn($_[0]{replay_lsn}) >= lsn($lsn) && $_[0]{lag_bytes} eq '0' && $_[0]{replay_lag_s} eq '0.000' });
is("$r->{state} $r->{end}|$r->{ended}|$r->{upstream}|$r->{timeline}", 'streams ||red|1', 'it streams');
is($r->{system_identifier}, control($red, 'Database system identifier'), 'which cluster it is');
is($r->{replay_lag_s}, '0.000', 'and is not behind');
my ($y, $m, $d, $H, $M, $S) = $r->{last_commit} =~ /^(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+) UTC$/;
require Time::Local;
cmp_ok(abs(time() - Time::Local::timegm($S, $M, $H, $d, $m - 1, $y)), '<', 120, 'the last commit was now');

# behind: replay is held up
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
wait_for('the pause', sub { $blue->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' });
$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 20000)');
$lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
$r = wait_row('the lag', 'blue', 'blue', sub { lsn($_[0]{flush_lsn}) >= lsn($lsn) && $_[0]{replay_lag_s} > 1 && $_[0]{flush_lag_s} eq '0.000' });
is($r->{lag_bytes}, lsn($r->{upstream_lsn}) - lsn($r->{replay_lsn}), 'lag_bytes counts to what is replayed');
cmp_ok($r->{lag_bytes}, '>', 1000000, 'more than a megabyte');
is($r->{flush_lag_s}, '0.000', 'it has flushed everything');
my $later = wait_row('the lag to grow', 'blue', 'blue', sub { $_[0]{replay_lag_s} > $r->{replay_lag_s} + 1 });
ok(1, 'the lag in seconds goes on while the standby is held up');
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
wait_row('the lag to end', 'blue', 'blue', sub { $_[0]{lag_bytes} eq '0' && $_[0]{replay_lag_s} eq '0.000' });

# the primary is killed: no proof
my $session = row('blue', 'blue')->{session};
$red->kill9;
$r = wait_row('the end', 'blue', 'blue', sub { $_[0]{state} eq 'ended' });
is($r->{end}, 'lost', 'a primary that was killed: the connection was lost') or diag(explain($r));
isnt($r->{last_record_type}, 'shutdown_checkpoint', 'and the last record is none that a shutdown ends with');
isnt($r->{end_reason}, '', "the reason is told: $r->{end_reason}");

# the same after a fast stop: the proof
$red->start;
$r = wait_row('the standby to come back', 'blue', 'blue', sub { $_[0]{state} eq 'streams' });
cmp_ok($r->{session}, '>', $session, 'the new stream has taken the row of the one that was lost');
$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 1000)');
$red->stop('fast');
$r = wait_row('the end', 'blue', 'blue', sub { $_[0]{state} eq 'ended' });
is($r->{end}, 'complete', 'a primary that shut down: the walsender completed the stream') or diag(explain($r));
is($r->{last_record_type}, 'shutdown_checkpoint', 'the last record is a shutdown checkpoint');
is($r->{last_record}, $r->{shutdown_checkpoint}, 'the same one');
is(lsn($r->{shutdown_checkpoint}), lsn(control($red, 'Latest checkpoint location')), 'which is the one that pg_control of the primary names');
is($r->{last_record_end}, $r->{received_lsn}, 'nothing came behind it');
is($r->{received_lsn}, $r->{sent_lsn}, 'all of it was sent');
is($r->{flush_lsn}, $r->{sent_lsn}, 'and flushed');
wait_for('the session to be gone', sub { $proxy->console('SHOW SESSIONS') !~ /\|START_REPLICATION\|/ });
is(row('blue', 'blue')->{end}, 'complete', 'it is remembered when the session is gone');
wait_for('the standby to replay', sub { $blue->safe_psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '$r->{last_record_end}'") eq 't' });
is($blue->safe_psql('postgres', 'SELECT pg_last_wal_replay_lsn()'), $r->{last_record_end}, 'the standby has replayed that far');

# a cascade sees the end of the timeline
$green->init_from_proxy($proxy, 'green');
$green->append_conf('postgresql.conf', "wal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 200ms\n");
$green->start;
wait_row('the cascade', 'green', 'green', sub { $_[0]{state} eq 'streams' });
my $old = row('green', 'green')->{session};
$blue->promote;
$r = wait_row('the next timeline', 'green', 'green', sub { $_[0]{timeline} == 2 && $_[0]{state} eq 'streams' });
cmp_ok($r->{session}, '>=', $old, 'the cascade streams the next timeline');

# who asks for the timeline that has ended gets it to its end, which is known then, of the session and of the standby
my ($switch) = slurp_file($blue->data_dir . '/pg_wal/00000002.history') =~ m{^1\t(\S+)}m;
my $past = Walcrypt::Wire->connect($proxy);
$past->startup(user => 'green', replication => 'true', application_name => 'past');
$past->until('Z');
my $from = lsn($switch) - lsn($switch) % (16 << 20);
$past->send('Q', sprintf("START_REPLICATION PHYSICAL %X/%X TIMELINE 1\0", $from >> 32, $from & 0xffffffff));
like(($past->until('cE'))[0], qr/^Wd+c$/, 'a stream of the timeline that has ended');
$past->send('c', '');
like(($past->until('ZE'))[0], qr/^TDC+Z$/, '... says what follows it');
$r = wait_row('its end', 'green', 'past', sub { $_[0]{state} eq 'ended' });
is("$r->{state} $r->{end} $r->{timeline} $r->{next_timeline} $r->{timeline_end}", "ended timeline 1 2 $switch", 'SHOW STANDBYS: it ended with the timeline, where the history says, and timeline 2 follows');
my $shown = wait_for('the session to be ready', sub { my ($s) = grep { $_->{application_name} eq 'past' } console_rows($proxy, 'SHOW SESSIONS'); $s && $s->{state} eq 'ready' ? $s : undef });
is("$shown->{state} $shown->{timeline_end}", "ready $switch", 'SHOW SESSIONS: the same');
is($shown->{shutdown_checkpoint}, control($red, 'Latest checkpoint location'), '... and which shutdown checkpoint it has passed');
like($shown->{last_commit}, qr/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$/, '... and when the last commit was');
undef $past;
my $receive = IPC::Run::start([ 'pg_receivewal', '-D', PostgreSQL::Test::Utils::tempdir(), '-d', $proxy->connstr('green') . ' application_name=archive', '--no-loop' ], '<', \undef, '>&', \my $said);
$r = wait_row('the archive', 'green', 'archive', sub { $_[0]{state} eq 'streams' && lsn($_[0]{write_lsn}) > 0 });
is($r->{replay_lsn}, '', 'what only receives replays nothing');
$receive->signal('INT');
$receive->finish;
is(wait_row('its end', 'green', 'archive', sub { $_[0]{state} eq 'ended' })->{end}, 'client', 'the client ended it');
$green->stop('immediate');
is(wait_row('its end', 'green', 'green', sub { $_[0]{state} eq 'ended' })->{end}, 'client', 'and so does one that is killed');

# names that nobody chose well
$receive = IPC::Run::start([ 'pg_receivewal', '-D', PostgreSQL::Test::Utils::tempdir(), '-d', $proxy->connstr('green') . " application_name='a\x01\"b\xff'", '--no-loop' ], '<', \undef, '>&', \$said);
wait_row('the odd name', 'green', 'a?"b?', sub { 1 });
ok(1, 'what is not printable in a name is shown as by a server');
$receive->signal('INT');
$receive->finish;

# the crashed cascade recovers, and follows
$green->start;
$green->check_integrity('the cascade after its crash', primary => $blue);
is($proxy->stop, 0, 'the proxy ends with exit 0');
done_testing();
