# The main job: a running, unencrypted PostgreSQL gets an encrypted standby through the proxy, which streams, replays, survives
# crashes and is promoted, and gets a standby of its own. WALCRYPT_PREFIX decides which build is tried (002 and 003 run this file
# under the sanitizers), use_postgres which PostgreSQL (004 to 006).
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $marker = 'MARKER-main-7f3e21';

sub facts
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{
		SELECT 'accounts', count(*), sum(abalance) FROM pgbench_accounts
		UNION ALL SELECT 'history', count(*), sum(delta) FROM pgbench_history
		UNION ALL SELECT 'letters', count(*), sum(hashtext(body)) FROM letters ORDER BY 1}); # a parallel plan gives its parts in any order
}

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "log_statement = none\n");
$red->start;
$red->command_ok([ 'pgbench', '-q', '-i', '-s', 2, 'postgres' ], 'the primary is filled');
$red->safe_psql('postgres', "CREATE TABLE letters (id int PRIMARY KEY, body text);
	INSERT INTO letters SELECT i, '$marker ' || i FROM generate_series(1, 5000) i; CHECKPOINT");

my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;

my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue');
command_ok([ 'pg_verifybackup', '-n', '-i', 'postgresql.conf', $blue->data_dir ], 'stock pg_verifybackup passes on the ciphertext');
ok(-f $blue->data_dir . "/pg_cryptokeys/live/$_", "the standby has its $_") for qw(relation.wkey wal.wkey keyset.json);

$blue->start;
is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'the standby runs on the encrypted directory');
wait_for('the stream', sub { $red->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') eq '1' });
is($red->safe_psql('postgres', 'SELECT application_name FROM pg_stat_replication'), 'blue', 'the primary sees the standby by its own name');

# load, with the proxy and the standby killed in the middle of it
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-t', 400, '-h', $red->host, '-p', $red->port, 'postgres' ], '<', \undef, '>&', \my $load_out);
wait_for('load', sub { $red->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history') > 100 });
$proxy->kill9;
$proxy->start;
wait_for('the standby to come back', sub { $red->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication') == 1 });
$blue->stop('immediate');
$blue->start;
ok($load->finish, 'pgbench ran through') or diag($load_out);
$red->wait_for_catchup('blue');
is(facts($blue), facts($red), 'the same rows on both after both were killed');

# what stands on the disks
$_->safe_psql('postgres', 'CHECKPOINT') for $red, $blue;
my $red_dir = $red->data_dir;
my $blue_dir = $blue->data_dir;
cmp_ok(scalar files_containing($marker, "$red_dir/base"), '>', 0, 'the search finds the marker in the plaintext relation files');
cmp_ok(scalar files_containing($marker, "$red_dir/pg_wal"), '>', 0, 'and in the plaintext WAL');
is(join(' ', files_containing($marker, $blue_dir)), '', 'and nowhere in the encrypted directory');
my %wal = encrypted_wal_files("$blue_dir/pg_wal");
is(join(' ', grep { $wal{$_} !~ /^(encrypted|empty)$/ } sort keys %wal), '', 'all WAL of the standby is encrypted');
cmp_ok((scalar grep { $_ eq 'encrypted' } values %wal), '>', 0, 'and there is some');

# hot standby feedback and the primary's view of positions pass the proxy
$blue->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1\n");
$blue->reload;
wait_for('feedback', sub { $red->safe_psql('postgres', "SELECT backend_xmin IS NOT NULL FROM pg_stat_replication") eq 't' });
ok(1, 'hot_standby_feedback arrives at the primary');

# synchronous replication through the proxy
$red->append_conf('postgresql.conf', "synchronous_standby_names = 'blue'\nsynchronous_commit = remote_apply\n");
$red->reload;
wait_for('sync', sub { $red->safe_psql('postgres', 'SELECT sync_state FROM pg_stat_replication') eq 'sync' });
# commits wait once the checkpointer has read the settings, too
$red->safe_psql('postgres', 'CHECKPOINT');
$red->safe_psql('postgres', "INSERT INTO letters VALUES (100000, '$marker sync')");
is($blue->safe_psql('postgres', 'SELECT count(*) FROM letters WHERE id = 100000'), '1', 'a remote_apply commit is on the standby when it returns');
$red->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$red->reload;

# No walreceiver was restarted but by the two kills. Where WAL simply ends ("got 0") the standby may look more often: until the proxy is back.
my @restarts = grep { !/got 0$/ } slurp_file($blue->logfile) =~ /((?:incorrect resource manager data checksum|invalid record length|unexpected pageaddr|incorrect prev-link).*)/g;
cmp_ok(scalar @restarts, '<=', 2, 'the standby read no garbage') or diag("@restarts");

my ($rc, $out, $err) = ctl_output('verify', '-D', $blue_dir, '--kek', $proxy->kek_uri);
is($rc, 0, 'verify is clean on the running standby') or diag($out . $err);

# promotion
$red->wait_for_catchup('blue');
my $before = facts($red);
$red->stop;
$blue->promote;
is(facts($blue), $before, 'the promoted standby has every row');
$blue->safe_psql('postgres', "INSERT INTO letters SELECT i, '$marker new ' || i FROM generate_series(200001, 201000) i; CHECKPOINT; SELECT pg_switch_wal()");
is(join(' ', files_containing($marker, $blue_dir)), '', 'what it writes as a primary is encrypted too');
$blue->restart;
is($blue->safe_psql('postgres', 'SELECT count(*) FROM letters'), '6001', 'it restarts');

# it has a standby of its own, from a base backup without the proxy: the same ciphertext under the same keys, streamed under load
my $green = Walcrypt::Node->new('green');
$blue->backup('straight', backup_options => ['--no-verify-checksums']);
is(join(' ', files_containing($marker, $blue->backup_dir . '/straight')), '', 'a base backup taken straight from the encrypted server is ciphertext');
$green->init_from_backup($blue, 'straight', has_streaming => 1);
$green->use_layer($proxy->kek_uri);
# in the file that the last word is in, as with the first standby
$green->append_conf('postgresql.auto.conf', 'port = ' . $green->port . "\nprimary_conninfo = '" . $blue->connstr . " application_name=green'\n");
$green->start;
$before = $blue->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history');
$load = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-t', 400, '-h', $blue->host, '-p', $blue->port, 'postgres' ], '<', \undef, '>&', \$load_out);
wait_for('load', sub { $blue->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history') > $before + 100 });
$blue->kill9;
$load->finish;
$green->kill9;
$_->start for $blue, $green;
$blue->safe_psql('postgres', "INSERT INTO letters SELECT i, '$marker crash ' || i FROM generate_series(300001, 301000) i");
$blue->wait_for_catchup($green);
is(facts($green), facts($blue), 'the same rows on both after both crashed under load');
$_->safe_psql('postgres', 'CHECKPOINT') for $blue, $green;
is(join(' ', files_containing($marker, $blue_dir, $green->data_dir)), '', 'the marker is in neither directory');
%wal = encrypted_wal_files($green->data_dir . '/pg_wal');
is(join(' ', grep { $wal{$_} !~ /^(encrypted|empty)$/ } sort keys %wal), '', 'all WAL that came straight from it is encrypted');
$green->promote;
$green->safe_psql('postgres', "INSERT INTO letters VALUES (400000, '$marker third')");
is($green->safe_psql('postgres', 'SELECT count(*) FROM letters'), '7002', 'the second standby is promoted too');
$green->stop;
($rc, $out, $err) = ctl_output('verify', '-D', $green->data_dir, '--kek', $proxy->kek_uri);
is($rc, 0, 'verify is clean on it') or diag($out . $err);
$blue->check_integrity('the promoted standby');
($rc, $out, $err) = ctl_output('verify', '-D', $blue_dir, '--kek', $proxy->kek_uri);
is($rc, 0, 'verify is clean on the stopped server') or diag($out . $err);
is($proxy->stop, 0, 'the proxy ends with exit 0 when asked to');
unlike($proxy->log, qr/Sanitizer|runtime error|PANIC|assert/i, 'nothing bad in the proxy\'s log');
done_testing();
