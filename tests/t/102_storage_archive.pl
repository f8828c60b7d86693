# WAL archives of encrypted servers: archive_command sees ciphertext, restore_command may bring ciphertext or clear WAL (which is
# encrypted before it gets its name); promotion; a standby that streams clear WAL straight from an unencrypted primary encrypts it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $marker = 'MARKER-archive-90be1d';
my $kek = 'file:' . kek_file("$tmp/kek_102");
my $sum = 'SELECT count(*), sum(id), sum(hashtext(body)) FROM t';

sub only
{
	my ($kind, $dir, $what) = @_;
	my %wal = encrypted_wal_files($dir);
	cmp_ok(scalar(grep { $_ ne 'empty' } values %wal), '>', 0, "$what: there are segments");
	return is(join(' ', grep { $wal{$_} ne $kind && $wal{$_} ne 'empty' } sort keys %wal), '', "$what: all $kind");
}

sub fill
{
	my ($node, $from) = @_;
	$node->safe_psql('postgres', "INSERT INTO t SELECT i, '$marker ' || i FROM generate_series($from, $from + 2999) i");
	return;
}

# an encrypted primary that archives; a copy of it, restored from the archive up to a point
my $primary = Walcrypt::Node->new('primary');
$primary->init_encrypted($kek, has_archiving => 1, allows_streaming => 1, extra => ['-k']);
$primary->start;
$primary->safe_psql('postgres', 'CREATE TABLE t (id int, body text)');
$primary->backup('base');
is(join(' ', files_containing($marker, $primary->backup_dir)), '', 'the base backup is ciphertext');
fill($primary, 1);
my $expected = $primary->safe_psql('postgres', $sum);
$primary->safe_psql('postgres', "SELECT pg_create_restore_point('here')");
fill($primary, 10000);
my $segment = $primary->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
$primary->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver") or die;
only('encrypted', $primary->archive_dir, 'the archive');
is(join(' ', files_containing($marker, $primary->archive_dir)), '', 'the marker is not in the archive');

my $restored = Walcrypt::Node->new('restored');
$restored->init_from_backup($primary, 'base', has_restoring => 1, standby => 0);
$restored->use_layer($kek);
$restored->append_conf('postgresql.conf', "recovery_target_name = 'here'\nrecovery_target_action = promote\narchive_mode = off\n");
$restored->start;
$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
is($restored->safe_psql('postgres', $sum), $expected, 'point-in-time recovery from an encrypted archive');
$restored->safe_psql('postgres', "INSERT INTO t VALUES (0, 'on the new timeline')");
$restored->restart;
is($restored->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = 0'), '1', 'which goes on after a restart');
only('encrypted', $restored->data_dir . '/pg_wal', 'its WAL');
$restored->stop;

# a standby of it is promoted in the middle of a page, and again one of that
my $standby = Walcrypt::Node->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->use_layer($kek);
$standby->start;
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
my $follower = Walcrypt::Node->new('follower');
$standby->backup('next');
$follower->init_from_backup($standby, 'next', has_streaming => 1);
$follower->use_layer($kek);
$follower->start;
$primary->stop('immediate');
$standby->promote;
fill($standby, 20000);
$standby->wait_for_catchup($follower, 'replay', $standby->lsn('flush'));
is($follower->safe_psql('postgres', $sum), $standby->safe_psql('postgres', $sum), 'a cascading standby follows a promotion');
$standby->stop('immediate');
$standby->start;
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), '9000', 'the promoted one survives a crash');
$_->check_integrity($_->name, primary => $standby) for $follower, $standby;
only('encrypted', $_->data_dir . '/pg_wal', 'WAL of ' . $_->name) for $standby, $follower;
is(join(' ', files_containing($marker, map { $_->data_dir } $primary, $restored, $standby, $follower)), '', 'the marker is nowhere');

# the same archive in clear
my $clear = "$tmp/clear_archive";
mkdir $clear;
for my $path (glob($primary->archive_dir . '/0*')) {
	my ($name) = $path =~ m{([^/]+)$};
	if ($name =~ /^[0-9A-F]{24}(\.partial)?$/) {
		ctl('wal', $path, '--decrypt', "$clear/$name", '-D', $primary->data_dir, '--kek', $kek);
	} else {
		system_or_bail('cp', $path, "$clear/$name");
	}
}
only('clear', $clear, 'the decrypted archive');
cmp_ok(scalar files_containing($marker, $clear), '>', 0, 'holds the marker');
my $fromclear = Walcrypt::Node->new('fromclear');
$fromclear->init_from_backup($primary, 'base', standby => 0);
$fromclear->use_layer($kek);
$fromclear->append_conf('postgresql.conf', "restore_command = 'cp \"$clear/%f\" \"%p\"'\nrecovery_target_name = 'here'\nrecovery_target_action = pause\narchive_mode = off\n");
append_to_file($fromclear->data_dir . '/recovery.signal', '');
# a group that may read (initdb -g) may read what was restored, too
chmod 0640, glob("$clear/*");
chmod 0750, $fromclear->data_dir;
unlink glob($fromclear->data_dir . '/pg_wal/0*');
$fromclear->start;
$fromclear->poll_query_until('postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'") or die;
my @segments = glob($fromclear->data_dir . '/pg_wal/0*');
cmp_ok(scalar @segments, '>', 0, 'segments are restored');
is(join(' ', grep { ((stat)[2] & 07777) != 0640 } @segments), '', 'with the mode of the server\'s files');
$fromclear->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$fromclear->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
is($fromclear->safe_psql('postgres', $sum), $expected, 'point-in-time recovery from a clear archive');
only('encrypted', $fromclear->data_dir . '/pg_wal', 'its WAL');
$fromclear->check_integrity('recovered from a clear archive');
is(join(' ', files_containing($marker, $fromclear->data_dir)), '', 'the marker is nowhere in it');

# An encrypted standby of an unencrypted primary, built through the proxy, that then streams straight from the primary.
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "log_statement = none\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t (id int, body text)');
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
my $blue = Walcrypt::Node->new('blue');
$blue->init_from_proxy($proxy, 'blue');
$proxy->stop;
$blue->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $red->connstr_for_proxy . " application_name=blue'\nwal_retrieve_retry_interval = 100ms\n");
$blue->start;
for my $round (1 .. 6) {
	fill($red, 1000 * $round);
	$red->wait_for_catchup('blue', 'replay', $red->lsn('flush'));
	is($blue->safe_psql('postgres', $sum), $red->safe_psql('postgres', $sum), "clear stream, round $round: the rows are there");
	# each side restarts in the middle of a page, cleanly and not; the page arrives again and is continued
	if ($round % 3 == 1) { $blue->stop($round == 1 ? 'fast' : 'immediate'); $blue->start; }
	if ($round % 3 == 2) { $red->stop($round == 2 ? 'fast' : 'immediate'); $red->start; }
	if ($round % 3 == 0) {
		$blue->kill9;
		$blue->start;
		$red->safe_psql('postgres', 'SELECT pg_switch_wal()');
	}
	$red->safe_psql('postgres', "INSERT INTO t VALUES (-$round, 'small')");
}
$red->wait_for_catchup('blue', 'replay', $red->lsn('flush'));
only('encrypted', $blue->data_dir . '/pg_wal', 'WAL that arrived clear');
only('clear', $red->data_dir . '/pg_wal', 'WAL of the primary');
cmp_ok(scalar files_containing($marker, $red->data_dir . '/pg_wal'), '>', 0, 'the marker is in the primary\'s WAL');
unlike(slurp_file($blue->logfile), qr/incorrect prev-link|incorrect resource manager/, 'the standby could read all that it stored');
$red->stop;
$blue->promote;
$blue->safe_psql('postgres', "INSERT INTO t VALUES (0, 'promoted')");
$blue->stop('immediate');
$blue->start;
is($blue->safe_psql('postgres', 'SELECT count(*) FROM t'), 18000 + 6 + 1, 'promoted, and after a crash');
$blue->check_integrity('promoted, and after a crash');
is(join(' ', files_containing($marker, $blue->data_dir)), '', 'the marker is nowhere on the standby');
done_testing();
