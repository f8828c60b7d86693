# Goal: through the proxy a primary and its standbys are to each other what they are without it: feedback, synchronous
# replication, slots, statistics; and whoever of the three is killed, streaming resumes by itself.
use strict;
use warnings;
use POSIX ();
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\nlog_statement = none\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t (i int, text text); INSERT INTO t SELECT i, i::text FROM generate_series(1, 1000) i');
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' }, green => { keyset => 'green' }, plain => { keyset => 'none', allow_clear => 'on' } });
$proxy->key_init($_) for qw(blue green);
$proxy->start;

my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue', slot => 'blue_slot', create_slot => 1);
$blue->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 500ms\n");
$blue->start;
my $green = Walcrypt::Node->new('green');
$green->init_from_proxy($proxy, 'green');
$green->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 500ms\n");
$green->start;
my $count = 'SELECT count(*), sum(i), sum(hashtext(text)) FROM t';
sub same { my ($what, @nodes) = @_; $red->wait_for_catchup($_->name) for @nodes; is($_->safe_psql('postgres', $count), $red->safe_psql('postgres', $count), "$what: the same rows on " . $_->name) for @nodes; return; }
sub streaming { my ($n) = @_; wait_for("$n streams", sub { ($red->psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"))[1] eq $n }); return; }

streaming(2);
same('two standbys under two keys', $blue, $green);
is($red->safe_psql('postgres', "SELECT active, restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'blue_slot'"), 't|t', 'the slot is in use');

# a clear standby beside them: for going back
my $plain = Walcrypt::Node->new('plain');
system_or_bail('pg_basebackup', '-D', $plain->data_dir, '-d', $proxy->connstr('plain'), '--checkpoint=fast', '--no-sync', '-R');
command_ok([ 'pg_verifybackup', $plain->data_dir ], 'a clear node gets what the primary has');

# feedback arrives upstream
my $xmin = wait_for('xmin', sub { my $x = $red->safe_psql('postgres', "SELECT xmin FROM pg_replication_slots WHERE slot_name = 'blue_slot'"); $x ne '' && $x });
ok($xmin > 0, 'hot_standby_feedback arrives upstream');
my $reader = $blue->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t;');
$xmin = $red->safe_psql('postgres', 'SELECT pg_current_xact_id()') + 0;
$red->safe_psql('postgres', "DELETE FROM t WHERE i % 10 = 0");
$red->safe_psql('postgres', "VACUUM t; INSERT INTO t VALUES (1, 'x')");
$red->wait_for_catchup('blue');
is($reader->query_safe('SELECT count(*) FROM t;'), '1000', 'a long query on the standby is not cancelled by vacuum');
$reader->quit;
wait_for('the standby\'s xmin to go on', sub { $red->safe_psql('postgres', "SELECT xmin::text::bigint >= $xmin FROM pg_replication_slots WHERE slot_name = 'blue_slot'") eq 't' });

# synchronous replication, up to remote_apply
$red->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = 'blue'");
$red->safe_psql('postgres', "ALTER SYSTEM SET synchronous_commit = remote_apply");
$red->reload;
wait_for('sync', sub { $red->safe_psql('postgres', "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'blue'") eq 'sync' });
# commits wait once the checkpointer has read the settings, too
$red->safe_psql('postgres', 'CHECKPOINT');
my $seen = 0;
for my $i (1 .. 20) {
	$red->safe_psql('postgres', "INSERT INTO t VALUES ($i, 'sync')");
	$seen++ if $blue->safe_psql('postgres', "SELECT count(*) FROM t WHERE text = 'sync'") == $i;
}
is($seen, 20, 'remote_apply: each commit is seen on the standby when it returns');
$red->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
$red->reload;

# a chatty upstream: small transactions, each flushed by itself, must restart no walreceiver (finding P1)
my $log_at = { map { $_->name => -s $_->logfile } $blue, $green };
my $from = $red->lsn('flush');
my $ends_file = PostgreSQL::Test::Utils::tempdir() . '/ends';
my $listener = fork() // die;
if ($listener == 0) {    # where the messages of a stream end
	my $wire = Walcrypt::Wire->connect($proxy);
	open(my $ends, '>', $ends_file) or die;
	$ends->autoflush(1);
	$wire->startup(user => 'green', replication => 'true', application_name => 'listener');
	$wire->until('Z');
	$wire->send('Q', "START_REPLICATION PHYSICAL $from\0");
	while (my ($type, $body) = $wire->message) {
		next unless $type eq 'd' && substr($body, 0, 1) eq 'w';
		print $ends unpack('Q>', substr($body, 1, 8)) + length($body) - 25, "\n";
	}
	POSIX::_exit(0);
}
wait_for('the listener', sub { $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'listener'") });
my @load = map { IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-t', 1600, '-R', 800, '-f', $_, '-h', $red->host, '-p', $red->port, 'postgres' ], '<', \undef, '>&', \my $out) }
	map { my $file = PostgreSQL::Test::Utils::tempdir() . '/load.sql'; append_to_file($file, $_); $file } "INSERT INTO t VALUES (:client_id, repeat('x', (random() * 900)::int));\n", "SELECT pg_logical_emit_message(false, 'chat', repeat('y', 1 + (random() * 20000)::int));\n";
$_->finish for @load;
my $until = $red->lsn('flush');
my $last = hex((split(m{/}, $until))[0]) * 2**32 + hex((split(m{/}, $until))[1]);
wait_for('the listener to have all', sub { my @l = split(/\n/, slurp_from($ends_file)); @l && $l[-1] >= $last });
kill('TERM', $listener);
waitpid($listener, 0);
$red->safe_psql('postgres', "INSERT INTO t VALUES (0, 'behind the last')");    # so that a record begins at $until
my %record = map { /lsn: ([0-9A-F]+)\/([0-9A-F]+),/ ? (hex($1) * 2**32 + hex($2) => 1) : () } `pg_waldump -p '@{[ $red->data_dir ]}/pg_wal' -s $from 2>/dev/null`;
my @inside = grep { $_ % 8192 != 0 && $_ <= $last } split(/\n/, slurp_from($ends_file));
cmp_ok(scalar @inside, '>', 1000, 'messages that end inside a page');
is(join(' ', map { sprintf('%X', $_) } grep { !$record{$_} } @inside), '', '... all end where a record begins');
same('after a chatty load', $blue, $green);
for my $node ($blue, $green) {
	my $log = slurp_from($node->logfile, $log_at->{ $node->name });
	unlike($log, qr/incorrect|invalid|started streaming|terminating walreceiver|could not receive/, $node->name . ': no walreceiver restart');
}

# the end of a segment by hand, and an idle connection
$red->safe_psql('postgres', 'SELECT pg_switch_wal()') for 1 .. 3;
$red->safe_psql('postgres', "INSERT INTO t VALUES (0, 'after the switch')");
same('after segment switches', $blue, $green);

# kill -9 of each of the three, under load
my $script = PostgreSQL::Test::Utils::tempdir() . '/slow.sql';
append_to_file($script, "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 50) i;\n\\sleep 5 ms\n");
sub under_load
{
	my ($what, $code) = @_;
	my $run = IPC::Run::start([ 'pgbench', '-n', '-c', 2, '-T', 4, '-f', $script, '-h', $red->host, '-p', $red->port, 'postgres' ], '<', \undef, '>&', \my $out);
	select(undef, undef, undef, 0.7);
	$code->();
	eval { $run->finish };
	streaming(2);
	same($what, $blue, $green);
	return;
}
under_load("proxy kill -9 number $_", sub { $proxy->kill9; $proxy->start; }) for 1 .. 3;
my $log = slurp_from($proxy->logfile, 0);
is(() = $log =~ /begins a new incarnation/g, 1, 'the same incarnation throughout: same bytes, same ciphertext');
under_load('standby kill -9', sub {
	$blue->kill9;
	# its children notice and go; the next start is refused until then
	wait_for('a start', sub { $blue->start(fail_ok => 1) });
});
is($red->safe_psql('postgres', "SELECT active FROM pg_replication_slots WHERE slot_name = 'blue_slot'"), 't', 'the slot was free for it at once');
under_load('upstream immediate stop', sub { $red->stop('immediate'); $red->start; });
under_load('upstream restart', sub { $log_at->{blue} = -s $blue->logfile; $red->restart; });
$log = slurp_from($blue->logfile, $log_at->{blue});
like($log, qr/replication terminated by primary server/, 'an upstream that shuts down ends the stream in good order');
unlike($log, qr/could not send end-of-streaming message/, 'and the standby may answer (finding P4)');
under_load('walsenders terminated', sub { $red->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_replication'); });
under_load('graceful restart of the proxy', sub { is($proxy->stop, 0, 'it stops in good order with sessions in it'); $proxy->start; });
is(() = slurp_from($proxy->logfile, 0) =~ /begins a new incarnation/g, 1, 'still the same incarnation');

# what stands on the standbys' disks
my %what = encrypted_wal_files($blue->data_dir . '/pg_wal');
is_deeply([ grep { $what{$_} !~ /encrypted|empty/ } keys %what ], [], 'all WAL of blue is encrypted');
for my $node ($blue, $green) {
	$node->check_integrity($node->name, primary => $red);
	my ($rc, $out, $err) = ctl_output('verify', '-D', $node->data_dir, '--kek', $proxy->kek_uri);
	is($rc, 0, $node->name . ': walcrypt-ctl verify is clean') or diag($out, $err);
}
# both have the cluster's WAL key, and a relation key each: it opens every page of its own standby and none of the other
for my $pair ([ $blue, $green ], [ $green, $blue ]) {
	my ($own, $other) = @$pair;
	my @kek_and_dir = ("$proxy->{dir}/kek", $own->data_dir);
	my ($readable, $pages) = readable_pages($own->data_dir . '/pg_cryptokeys', @kek_and_dir);
	cmp_ok($pages, '>', 1000, $own->name . " has $pages pages");
	is($readable, $pages, '... its keys open all of them');
	is((readable_pages($other->data_dir . '/pg_cryptokeys', @kek_and_dir))[0], 0, '... those of ' . $other->name . ' none');
}
is($red->safe_psql('postgres', "SELECT active FROM pg_replication_slots WHERE slot_name = 'blue_slot'"), 'f', 'a standby that stops frees its slot');
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
