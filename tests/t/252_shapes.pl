# Goal: the shapes that replication takes: a proxy behind a proxy, a cascade from a standby, two proxies with one keystore in turn,
# all levels of synchronous replication, slots across restarts, an archive host with a WAL key of its own, WAL from any position on.
# Each from a clear primary and, after a promotion, from an encrypted one.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $marker = 'marker-252-gestaltet';
my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 512MB\nlog_statement = none\nmax_wal_senders = 20\nmax_replication_slots = 20\nwal_retrieve_retry_interval = 300ms\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 10000) i");
my ($blue, $cyan, $grey, $green) = map { Walcrypt::Node->new($_) } qw(blue cyan grey green);
my $up = $red;

my %nodes = (
	red => { conninfo => $red->connstr_for_proxy }, blue => { conninfo => $blue->connstr_for_proxy, keyset => 'blue' },
	cyan => { keyset => 'cyan', upstream => 'blue' }, grey => { allow_clear => 'on', upstream => 'blue' },
	relay => { keyset => 'relay' }, archive => { keyset => 'archive', profile => 1 });
my $proxy = Walcrypt::Proxy->new(nodes => \%nodes);
$proxy->key_init($_) for qw(blue cyan relay);
$proxy->key_init('archive', '--own-wal-key');
$proxy->start;

my $facts = 'SELECT count(*), sum(i), sum(hashtext(text)) FROM t';
sub same
{
	my ($what, @nodes) = @_;
	my $lsn = $up->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	for my $n (@nodes) {
		wait_for($n->name . " at $lsn", sub { ($n->psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'"))[1] eq 't' });
		is($n->safe_psql('postgres', $facts), $up->safe_psql('postgres', $facts), "$what: the same rows on " . $n->name);
	}
	return;
}
sub more { my ($text) = @_; $up->safe_psql('postgres', "INSERT INTO t SELECT i, '$marker$text' FROM generate_series(1, 300) i"); return; }
sub start_standby { my ($n) = @_; $n->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 300ms\n"); $n->start; return; }

$blue->init_from_proxy($proxy, 'blue', slot => 'blue_slot', create_slot => 1);
start_standby($blue);
same('a standby', $blue);

# a proxy behind the proxy: its upstream is node relay of the first
my $second = Walcrypt::Proxy->new(kek => $proxy->{kek}, nodes => {
	first => { conninfo => $proxy->connstr('relay'), keyset => 'relay' }, green => { keyset => 'green' } });
system_or_bail('cp', '-a', $proxy->keystore . '/relay', $second->keystore . '/relay');
$second->key_init('green');
$second->start;
$green->init_from_proxy($second, 'green');
command_ok([ 'pg_verifybackup', '-n', $green->data_dir ], 'two proxies: stock pg_verifybackup passes on what came through both');
is(scalar(() = files_containing($marker, $green->data_dir)), 0, 'two proxies: no marker in it');
is(scalar(() = slurp_file($green->data_dir . '/postgresql.auto.conf') =~ /libwalcrypt-storage/g), 1, 'two proxies: one guard');
start_standby($green);
more('two proxies');
same('two proxies', $green);
is($red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'green'"), '1', 'two proxies: the primary sees the standby by its name');
wait_for('feedback', sub { $red->safe_psql('postgres', "SELECT backend_xmin IS NOT NULL FROM pg_stat_replication WHERE application_name = 'green'") eq 't' });
ok(1, 'two proxies: hot_standby_feedback arrives');

# A commit that does not return until the code is done, then does.
sub commit_waits
{
	my ($what, $code) = @_;
	my $commit = $red->background_psql('postgres', on_error_stop => 0);
	$commit->query_until(qr/begun/, "\\echo begun\nINSERT INTO t VALUES (0, '$what');\n");
	my $waits = sub { return $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") };
	wait_for('a wait', sub { $waits->() eq '1' });
	select(undef, undef, undef, 0.5);
	is($waits->(), '1', "$what: a commit waits");
	$code->();
	wait_for('it to return', sub { $waits->() eq '0' });
	$commit->quit;
	return;
}

# synchronous replication, all levels, through one proxy and through two
for my $sync ([ 'blue', $blue ], [ 'green', $green ]) {
	my ($name, $standby) = @$sync;
	for my $level (qw(remote_write on remote_apply)) {
		$red->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = '$name'");
		$red->safe_psql('postgres', "ALTER SYSTEM SET synchronous_commit = $level");
		$red->reload;
		wait_for('sync', sub { ($red->psql('postgres', "SELECT string_agg(application_name, ' ') FROM pg_stat_replication WHERE sync_state <> 'async'"))[1] eq $name });
		# commits wait once the checkpointer has read the settings, too
		$red->safe_psql('postgres', 'CHECKPOINT');
		my $seen = 0;
		for my $i (1 .. 5) {
			$red->safe_psql('postgres', "INSERT INTO t VALUES ($i, '$name $level')");
			my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
			$seen++ if $level ne 'remote_apply' || $standby->safe_psql('postgres', "SELECT count(*) FROM t WHERE text = '$name $level'") == $i;
		}
		is($seen, 5, "$name: synchronous commits with $level return" . ($level eq 'remote_apply' ? ', applied' : ''));
		# each level waits for what it says, and nobody but the standby acknowledges
		my $receiver = $standby->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
		kill('STOP', $receiver);
		commit_waits("$name, $level, its walreceiver stopped", sub { kill('CONT', $receiver) });
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
		wait_for('the pause', sub { $standby->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' });
		if ($level eq 'remote_apply') {
			commit_waits("$name, $level, its replay paused", sub { $standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()') });
		} else {
			$red->safe_psql('postgres', "INSERT INTO t VALUES (0, '$name $level paused')");
			is($standby->safe_psql('postgres', "SELECT count(*) FROM t WHERE text = '$name $level paused'"), '0', "$name, $level, its replay paused: a commit returns");
			$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
		}
	}
	$standby->stop;
	commit_waits("$name, while it is away", sub { $standby->start });
	same("$name is back", $standby);
}
$red->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
$red->reload;

# a cascade: from the standby blue, encrypted and clear
$cyan->init_from_proxy($proxy, 'cyan');
$cyan->append_conf('postgresql.auto.conf', "primary_slot_name = ''\n"); # blue's came along
is(scalar(() = files_containing($marker, $cyan->data_dir)), 0, 'a cascade: no marker in its base backup');
start_standby($cyan);
mkdir $_ for $grey->backup_dir, $grey->archive_dir;
command_ok([ 'pg_basebackup', '-D', $grey->data_dir, '-d', $proxy->connstr('grey') . ' application_name=grey', '--no-sync', '-R' ], 'a clear cascade: its base backup');
$grey->append_conf('postgresql.auto.conf', 'port = ' . $grey->port . "\nunix_socket_directories = '" . $grey->host . "'\nprimary_slot_name = ''\n");
start_standby($grey);
more('cascade');
same('a cascade', $cyan, $grey);
is($blue->safe_psql('postgres', "SELECT string_agg(application_name, ' ' ORDER BY application_name) FROM pg_stat_replication"), 'cyan grey', 'a cascade: blue sees them, not the primary');
my ($out, $err) = $proxy->console('SHOW SESSIONS');
like($out, qr/\|cyan\|cyan\|[^|]*\|stream\|START_REPLICATION\|blue\|/, 'a cascade: the console says who its upstream is');

# WAL from any position on: the same bytes as from the segment's beginning
sub wal_from
{
	my ($as, $from, $to, $timeline) = @_;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => $as, replication => 'true');
	$c->until('Z');
	$c->send('Q', sprintf("START_REPLICATION PHYSICAL %X/%X TIMELINE %d\0", $from >> 32, $from & 0xffffffff, $timeline));
	my ($wal, $at) = ('', $from);
	while (length $wal < $to - $from and my ($type, $body) = $c->message) {
		die join(' ', $as, %{ { Walcrypt::Wire::fields($body) } }) if $type eq 'E';
		next if $type ne 'd' || substr($body, 0, 1) ne 'w';
		my $start = unpack('Q>', substr($body, 1, 8));
		die "a gap: $start, not $at" if $start != $at;
		$wal .= substr($body, 25);
		$at += length($body) - 25;
	}
	return substr($wal, 0, $to - $from);
}
sub any_position
{
	my ($timeline) = @_;
	my $file = $up->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
	my $begin = (hex(substr($file, 8, 8)) << 32) + hex(substr($file, 16, 8)) * 0x1000000;
	more("position $_") for 1 .. 3;
	my ($hi, $lo) = map { hex } split m{/}, $up->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	my $end = ($hi << 32) + $lo;
	cmp_ok($end, '>', $begin + 30000, 'there is some WAL');
	my %whole = map { $_ => wal_from($_, $begin, $end, $timeline) } qw(relay archive cyan grey);
	is($whole{relay}, $whole{cyan}, 'nodes of the cluster get the same bytes from the primary and from its standby') if $up == $blue;
	isnt($whole{relay}, $whole{archive}, 'the archive gets others');
	cmp_ok(index($whole{grey}, "$marker" . 'position 1'), '>', 0, 'the clear node gets clear WAL');
	is(index($whole{$_}, $marker), -1, "$_ gets no clear WAL") for qw(relay archive cyan);
	for my $offset (1, 4, 8, 23, 24, 40, 41, 8191, 8192, 8192 + 3, 8192 + 20, 8192 + 24, 20000, 24577) {
		is_deeply([ map { wal_from($_, $begin + $offset, $end, $timeline) eq substr($whole{$_}, $offset) ? $_ : "not $_" } sort keys %whole ],
			[ sort keys %whole ], "WAL from byte $offset on is the same");
	}
	return;
}
any_position(1);

# an archive host with a slot: its directory holds ciphertext under its own key, across a restart in mid segment
mkdir "$tmp/archive252";
my @receive = ('pg_receivewal', '-D', "$tmp/archive252", '-d', $proxy->connstr('archive') . ' application_name=archiver', '-S', 'archive', '--synchronous', '--no-loop');
command_ok([ 'pg_receivewal', '-d', $proxy->connstr('archive'), '-S', 'archive', '--create-slot' ], 'the archive\'s slot');
sub receive_until
{
	my ($lsn) = @_;
	my ($o, $e) = ('', '');
	my $run = IPC::Run::start([ @receive, '--endpos', $lsn ], '<', \undef, '>', \$o, '2>', \$e);
	# or the end of it, where more has come by itself
	wait_for('pg_receivewal', sub { $run->pump_nb; !$run->pumpable || $up->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'archiver'") });
	$up->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'it', 'looks when more comes')");
	ok($run->finish, "pg_receivewal up to $lsn") or diag($e);
	return;
}
more('archive 1');
receive_until($up->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'));
my @partial = glob("$tmp/archive252/*.partial");
is(scalar @partial, 1, 'the archive ends in the middle of a segment');
command_ok([ 'pg_basebackup', '-D', "$tmp/base252", '-d', $proxy->connstr('archive'), '-c', 'fast', '--no-sync', '-X', 'none' ], 'its base backup');
{
	my $receiver = IPC::Run::start([ @receive ], '<', \undef, '>&', \my $said);
	more('archive 2');
	my $lsn = $up->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	wait_for('--synchronous reports', sub { $up->safe_psql('postgres', "SELECT flush_lsn >= '$lsn' FROM pg_stat_replication WHERE application_name = 'archiver'") eq 't' });
	ok(1, '--synchronous reports what it has flushed');
	$receiver->signal('INT');
	$receiver->finish;
}

# two proxies with one keystore in turn, under load
{
	my $other = Walcrypt::Proxy->new(dir => $proxy->{dir}, kek => $proxy->{kek}, nodes => \%nodes);
	is($other->start(fail_ok => 1), 0, 'a second proxy on the same ledger does not start');
	like($other->log, qr/ledger.*(in use|another process)/s, 'and says why');
	$other->{$_} = $proxy->{$_} for qw(port sockets);
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 2, '-T', 9, '-f', do { my $f = "$tmp/load252.sql"; append_to_file($f, "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 50) i;\n\\sleep 5 ms\n"); $f }, '-h', $up->host, '-p', $up->port, 'postgres' ], '<', \undef, '>&', \my $said);
	for my $turn (1 .. 2) {
		$proxy->kill9;
		$other->write_conf;
		$other->start;
		wait_for('blue', sub { $up->safe_psql('postgres', "SELECT active FROM pg_replication_slots WHERE slot_name = 'blue_slot'") eq 't' });
		$turn == 1 ? $other->stop : $other->kill9;
		$proxy->write_conf;
		$proxy->start;
		wait_for('blue', sub { $up->safe_psql('postgres', "SELECT active FROM pg_replication_slots WHERE slot_name = 'blue_slot'") eq 't' });
	}
	$load->finish;
	same('two proxies in turn', $blue, $cyan, $grey, $green);
	my $restarts = () = (slurp_file($proxy->logfile) . slurp_file($other->logfile)) =~ /timeline 1 of cluster \d+ begins a new incarnation/g;
	is($restarts, 2, 'the same incarnation throughout, one for each WAL key');
	unlike(slurp_file($blue->logfile), qr/incorrect|invalid (?!length|record|magic number 0000)|PANIC/, 'blue read no garbage');
}

# everything again from the encrypted primary
$up->wait_for_catchup('blue');
receive_until($up->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'));
$red->safe_psql('postgres', "SELECT pg_create_restore_point('before')");
more('after the restore point');
my $restored = $red->safe_psql('postgres', "SELECT count(*) FROM t WHERE text NOT LIKE '%after the restore point%'");
$red->safe_psql('postgres', 'SELECT pg_switch_wal()');
more('next segment');
receive_until($red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'));
same('before the promotion', $blue);
$red->stop;
$blue->promote;
$up = $blue;
$blue->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('archive', true)");
more('from blue');
wait_for('green to follow', sub { ($green->psql('postgres', 'SELECT received_tli FROM pg_stat_wal_receiver'))[1] eq '2' });
same('after the promotion', $cyan, $grey, $green);
any_position(2);
$blue->safe_psql('postgres', "SELECT pg_create_restore_point('from_blue')");
my $on_blue = $blue->safe_psql('postgres', 'SELECT count(*) FROM t');
more('after the second restore point');
$blue->safe_psql('postgres', 'SELECT pg_switch_wal()');
more('last segment');
receive_until($blue->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'));
is(scalar(() = files_containing($marker, "$tmp/archive252", "$tmp/base252")), 0, 'no marker in the archive or its base backup');
my %what = encrypted_wal_files("$tmp/archive252");
is_deeply([ grep { $what{$_} ne 'encrypted' } keys %what ], [], 'the archive holds only ciphertext');
cmp_ok(scalar(grep { /^00000002/ } keys %what), '>', 0, 'of both timelines');

# point-in-time recovery from it, to a place on each timeline
for my $target ([ 'before', $restored, 1 ], [ 'from_blue', $on_blue, 2 ]) {
	my ($name, $rows, $timeline) = @$target;
	my $n = Walcrypt::Node->new("restored_$name");
	mkdir $_ for $n->backup_dir, $n->archive_dir;
	system_or_bail('cp', '-a', "$tmp/base252", $n->data_dir);
	chmod 0700, $n->data_dir;
	append_to_file($n->data_dir . '/recovery.signal', '');
	$n->append_conf('postgresql.auto.conf', 'port = ' . $n->port . "\nunix_socket_directories = '" . $n->host . "'\nrestore_command = 'cp $tmp/archive252/%f %p'\n"
		. "recovery_target_name = '$name'\nrecovery_target_action = pause\nrecovery_target_timeline = $timeline\n");
	$n->use_layer($proxy->kek_uri);
	$n->start;
	wait_for('the target', sub { ($n->psql('postgres', "SELECT pg_get_wal_replay_pause_state()"))[1] eq 'paused' });
	is($n->safe_psql('postgres', 'SELECT count(*) FROM t'), $rows, "restored from the archive up to \"$name\": every row and none that came later");
	$n->stop;
}
$_->check_integrity($_->name, primary => $blue) for $green, $cyan, $grey;
for my $node ($cyan, $green) {
	my ($rc, $o, $e) = ctl_output('verify', '-D', $node->data_dir, '--kek', $proxy->kek_uri);
	is($rc, 0, $node->name . ': walcrypt-ctl verify is clean') or diag($o, $e);
}
is($_->stop, 0, 'the proxy stops in good order') for $second, $proxy;
done_testing();
