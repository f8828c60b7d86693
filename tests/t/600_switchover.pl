# Goal: walcrypt-ctl switchover moves a stock primary's role to its encrypted standby while clients write: every commit that was
# acknowledged is there, none twice, and clients see nothing but a lost connection. The proxy takes the new primary by itself, the
# old one stays stopped and cannot come back as a primary.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 200ms\nwal_keep_size = 128MB\n");
$red->start;
my $blue = Walcrypt::Node->new('blue');
my $green = Walcrypt::Node->new('green');
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir },
	blue => { conninfo => $blue->connstr_for_proxy, datadir => $blue->data_dir, keyset => 'blue' },
	green => { conninfo => $green->connstr_for_proxy, keyset => 'green' } });
$proxy->key_init($_) for qw(blue green);
$proxy->start;
$blue->init_from_proxy($proxy, 'blue');
$green->init_from_proxy($proxy, 'green', slot => 'green', create_slot => 1);
$_->start for $blue, $green;
$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('spare', true)");

wait_for('both to stream', sub { my $s = $proxy->console('SHOW STANDBYS'); !grep { $s !~ /^$_\|$_\|[^|]*\|streams\|/m } qw(blue green) });

# what must not be
my @switchover = ('switchover', '--config', $proxy->conf);
sub refused
{
	my ($name, $want, @args) = @_;
	my ($rc, $out, $err) = ctl_output(@switchover, @args);
	isnt($rc, 0, "$name: refused");
	like("$out$err", $want, "$name: the reason is said");
	is($red->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', "$name: the primary is as before");
	ok(!-e $red->data_dir . '/standby.signal', "$name: and not fenced");
	return $rc;
}
is(refused('no such node', qr/has no \[node purple\]/, '--to', 'purple'), 2, 'a usage error');
is(refused('already', qr/node "red" is a primary already/, '--to', 'red'), 6, 'a refusal');
is(refused('nothing to resume', qr/there is no switchover that was stopped midway/, '--resume'), 6, 'a refusal');
refused('nothing to abort', qr/there is no switchover that was stopped midway/, '--abort');
refused('no place for the report', qr{could not write a report into "/no/such/folder/": No such file}, '--to', 'blue', '--report', '/no/such/folder/report');
refused('both', qr/exclude each other/, '--abort', '--resume');
is(refused('nothing to do', qr/--to is missing/), 2, 'a usage error');
is(refused('an abort of another', qr/--to, --old and --dry-run belong to one that begins/, '--abort', '--to', 'blue'), 2, 'a usage error');
is(refused('an unknown fate', qr/--old must be stop, clear or reencrypt, not "burn"/, '--to', 'blue', '--old', 'burn'), 2, 'a usage error');
$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('other', true)");
$blue->append_conf('postgresql.conf', "synchronous_standby_names = 'blue'\n");
$blue->reload;
$blue->poll_query_until('postgres', "SELECT current_setting('synchronous_standby_names') = 'blue'");
refused('synchronous with itself', qr/FAIL +the synchronous_standby_names of "blue", blue, will be there/, '--to', 'blue');
$blue->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$blue->reload;
$blue->poll_query_until('postgres', "SELECT current_setting('synchronous_standby_names') = ''");
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
refused('paused', qr/FAIL +"blue" replays without pause or delay/, '--to', 'blue');
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');

# --dry-run looks and shows, and changes nothing
my ($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue', '--dry-run');
is($rc, 0, 'dry run: all checks hold') or diag($out, $err);
like($out, qr/ok +"blue" has another relation key.*ok +it streams from "red".*note +physical slot "spare" will be made.*The plan:.*--old=stop/s, 'dry run: checks and plan');
unlike($out, qr/FAIL/, 'dry run: none fails');
ok(!-e $proxy->keystore . '/switchover.json', 'dry run: no logbook');
unlike($out, qr/hook/, 'dry run: of a hook that is not there nothing is said');

# a role that may do nothing: what each lacks is said as the command that mends it, and with those it goes
$red->safe_psql('postgres', 'CREATE ROLE operator LOGIN REPLICATION');
$red->wait_for_catchup('blue', 'replay', $red->lsn('insert'));
for my $node ($red, $blue) { $proxy->{nodes}{ $node->name }{control_conninfo} = 'host=' . $node->host . ' port=' . $node->port . ' user=operator'; }
$proxy->write_conf;
($rc, $out) = ctl_output(@switchover, '--to', 'blue', '--dry-run');
is($rc, 6, 'a role without rights is refused');
my @grants = $out =~ /^  FAIL .*\n        HINT:  (GRANT .*?)(?:, in database postgres)?\.$/mg;
is(scalar(@grants), 3, '... and three grants are named') or diag($out);
$red->safe_psql('postgres', $_) for @grants;
$red->wait_for_catchup('blue', 'replay', $red->lsn('insert'));
($rc, $out) = ctl_output(@switchover, '--to', 'blue', '--dry-run');
is($rc, 0, '... which are all it takes') or diag($out);

# the primary is there, but does not let us in: that is said beside what else does not answer
my $grey = "$PostgreSQL::Test::Utils::tmp_check/600_grey";
$proxy->{nodes}{red}{control_conninfo} =~ s/operator/stranger/;
$proxy->{nodes}{grey} = { conninfo => 'host=127.0.0.1 port=1 user=x', datadir => $grey, keyset => 'green' };
$proxy->write_conf;
($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue', '--dry-run');
is($rc, 6, 'no primary is found');
like($err, qr/none of the nodes is a primary\nDETAIL:  could not reach node "grey": .*\. could not reach node "red": .*"stranger" does not exist/, '... and the reason of each is said');
delete $proxy->{nodes}{$_}{control_conninfo} for qw(red blue);
$proxy->write_conf;

# a rotation to a node that is not there yet; and to one whose configuration pg_ctl cannot find, as with Debian's clusters
($rc, $out, $err) = ctl_output('rotate', '--config', $proxy->conf, '--to', 'grey', '--dry-run');
is($rc, 0, 'rotate --dry-run to a node that is not built') or diag($out, $err);
like($out, qr/^Before the rotation:\n  "grey" is built, into \Q$grey\E\n  "grey" is started; .*^The plan:/ms, '... says that a rotation would');
mkdir $grey, 0700;
PostgreSQL::Test::Utils::append_to_file("$grey/PG_VERSION", postgres_major() . "\n");
($rc, undef, $err) = ctl_output('rotate', '--config', $proxy->conf, '--to', 'grey');
is($rc, 6, 'rotate to a node without postgresql.conf');
like($err, qr/there is no postgresql\.conf in its data directory\nHINT:  .*control = pg_ctlcluster/, '... says what its section needs');
delete $proxy->{nodes}{grey};
$proxy->write_conf;

# the real thing, with writers, who find the primary by the conninfo that docs/switchover.md shows
my ($documented) = slurp_file('docs/switchover.md') =~ /^    (host=pg1,pg2 .*)$/m or die;
my $writers = Walcrypt::Writers->new(4, $red, $blue);
$writers->{conninfo} = $documented =~ s/host=\S+/'host=' . join(',', map { $_->host } $red, $blue)/er =~ s/port=\S+/'port=' . join(',', map { $_->port } $red, $blue)/er =~ s/dbname=\S+/dbname=postgres/r;
like($writers->{conninfo}, qr/target_session_attrs=read-write/, 'a conninfo with several hosts is documented');
my $log = -s $red->logfile;
$writers->start;
$writers->wait_for_commits(200);
($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue');
is($rc, 0, 'switchover') or diag($out, $err);
print "# $_\n" for split(/\n/, $out);
like($out, qr/ok +the stream's last record is a shutdown checkpoint.*ok +the stream ended with the walsender's CommandComplete.*ok +the old primary's pg_control says "shut down".*ok +the standby has flushed and replayed/s,
	'all four parts of the proof');
like($out, qr/"blue" is the primary, on timeline 2\..*write pause +[\d.]+ s.*keys before +clear.*keys after +relation key [0-9a-f]+, WAL epoch 1/s, 'the report');
like($out, qr/^ +[\d.]+ s  the proxy holds new sessions, but the target's\n.*^ +[\d.]+ s  the old primary is fenced: .*^ +[\d.]+ s  the old primary is stopped\n.*^ +[\d.]+ s  the target is promoted$/ms, '... the steps and what each took');
my ($at) = `pg_controldata @{[$red->data_dir]}` =~ /^Latest checkpoint location: +(\S+)/m;
my ($history) = slurp_file($blue->data_dir . '/pg_wal/00000002.history') =~ /^1\t(\S+)\t/m;
like($out, qr{^  proof +shutdown checkpoint at \Q$at\E, end of WAL \Q$history\E$}m, '... and the LSNs that the servers have');
like(slurp_from($red->logfile, $log), qr/checkpoint starting: \S+ force wait.*received fast shutdown request/s, 'the primary made a checkpoint before it was stopped');
$writers->wait_for_commits(200, 'blue');
$writers->account($blue, only_lost_connections => 1);

ok(!-e $red->data_dir . '/postmaster.pid', 'the old primary is stopped');
$red->_update_pid(0);
ok(-e $red->data_dir . '/standby.signal', 'and fenced');
is($blue->safe_psql('postgres', "SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('spare', 'other')"), '2', 'the slots are there');
ok(!-e $proxy->keystore . '/switchover.json', 'the logbook is put aside');
like(slurp_file($proxy->keystore . '/switchover.last.json'), qr/"state": "done"/, 'as done');
is($proxy->console('SHOW STATUS') =~ /^paused\|no$/m ? 1 : 0, 1, 'the proxy holds nobody');
$blue->safe_psql('postgres', 'CREATE TABLE after_it AS SELECT 1');
$blue->wait_for_catchup('green');
is($green->safe_psql('postgres', 'SELECT count(*) FROM after_it'), '1', 'the other standby follows through the proxy');
is($blue->safe_psql('postgres', "SELECT active FROM pg_replication_slots WHERE slot_name = 'green'"), 't', '... by its slot, which was made there');
like(slurp_file($proxy->keystore . '/timelines'), qr/^\d+ 2$/m, 'the timeline is kept');
IPC::Run::run([ 'pg_basebackup', '-D', "$PostgreSQL::Test::Utils::tmp_check/600_own", '-d', $proxy->connstr('blue') ], '<', \undef, '>', \$out, '2>', \$err);
like($err, qr/there is no upstream for node "blue" now\n.*\nHINT:  "blue" was the primary .* no node is its own upstream/, 'a backup of the new primary under its own name: why not is said');
unlike($err, qr/Is the server running/, '... without what libpq asks back');

# the old primary comes back as a standby of nobody
$red->start;
is($red->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'started again, the old primary is a standby');
$red->stop;

# other keys, but the same WAL key: that is said
($rc, $out, $err) = ctl_output(@switchover, '--to', 'green', '--dry-run', '--yes');
is($rc, 0, 'a standby without another WAL epoch') or diag($out, $err);
like($out, qr/^  note  no new WAL epoch is staged: WAL stays under epoch 1 \(walcrypt-ctl key new-epoch\)$/m, '... that is said');
ctl('key', 'new-epoch', 'green', '--config', $proxy->conf);
($rc, $out, $err) = ctl_output(@switchover, '--to', 'green', '--dry-run', '--yes');
is($rc, 0, 'and with one') or diag($out, $err);
unlike($out, qr/WAL epoch/, '... nothing');

# the same keys: nothing would be rotated
$proxy->{nodes}{green}{keyset} = 'blue';
$proxy->write_conf;
($rc, $out, $err) = ctl_output(@switchover, '--to', 'green', '--dry-run');
is($rc, 6, 'a standby with the same key is refused');
like($out, qr/FAIL +"green" has the relation key of "blue", [0-9a-f]{16}: nothing would be rotated/, 'with the reason');
$blue->stop;
$green->stop;
done_testing();
