# Goal: the full circle under load: a plain primary becomes an encrypted cluster (rotate builds blue; the plain one follows as a clear standby,
# and one can switch back to it), its keys are rotated to green and back to blue, whose directory was re-encrypted in between. Each rotation has its WAL
# epoch; at the end no page of any node can be read with any earlier relation key, and every acknowledged commit is there, once.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use JSON::PP;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my $marker = 'marker-603-rundherum';
my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green);
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 200ms\nwal_keep_size = 512MB\nmax_wal_size = 4GB\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 20000) i; CREATE INDEX ON t (text); CHECKPOINT");
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir, allow_clear => 'on' },
	map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, keyset => $_ } } qw(blue) });
$proxy->key_init('blue');
$proxy->start;
my $facts = 'SELECT count(*), sum(i), sum(hashtext(text)) FROM t';
my $sum = $red->safe_psql('postgres', $facts);
my $writers = Walcrypt::Writers->new(2, $red, $node{blue}, $node{green});
$writers->start;
my $primary = 'red';
my %relation;    # every relation key that there ever was: where it is kept now

sub is_standby { return ($node{ $_[0] }->psql('postgres', 'SELECT pg_is_in_recovery()'))[1]; }

# One step to another primary.
sub go
{
	my ($what, $to, @args) = @_;
	my ($rc, $out, $err) = ctl_output($what, '--config', $proxy->conf, '--to', $to, @args);
	is($rc, 0, "$what to $to @args") or diag($out, $err);
	print "# $_\n" for split(/\n/, $out);
	# the tool has started and stopped them
	$node{$_}->_update_pid(-1) for grep { -e $node{$_}->data_dir . '/postmaster.pid' } keys %node;
	$node{$_}->_update_pid(0) for grep { !-e $node{$_}->data_dir . '/postmaster.pid' } keys %node;
	$primary = $to;
	is(is_standby($to), 'f', "$to is the primary");
	is($node{$to}->safe_psql('postgres', $facts), $sum, "$to has every row");
	$writers->wait_for_commits(20);
	return $out;
}
sub follows
{
	my ($name) = @_;
	my $lsn = $node{$primary}->lsn('insert');
	$node{$name}->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") or die;
	is($node{$name}->safe_psql('postgres', $facts), $sum, "$name follows $primary");
	wait_for("$name to stream through the proxy", sub { $proxy->console('SHOW STANDBYS') =~ /^\Q$name\E\|\Q$name\E\|[^|]*\|streams\|\d+\|\Q$primary\E\|/m });
	pass('... through the proxy');
	return;
}

# --dry-run tells what there is to be done before, and looks at what there is
my ($rc, $out, $err) = ctl_output('rotate', '--config', $proxy->conf, '--to', 'blue', '--old', 'clear', '--dry-run');
is($rc, 0, 'a rotation to a node that is not built yet, tried') or diag($out, $err);
like($out, qr/^Before the rotation:\n  "blue" is built, into \S+\n  "blue" is started; .*^  ok +pg_control of "red".*^The plan:.*--old=clear/ms, '... it is told');
ok(!-e $node{blue}->data_dir . '/PG_VERSION' && !-e $proxy->keystore . '/switchover.json', '... and nothing done');

# there, back, and there again
$out = go('rotate', 'blue', '--old', 'clear');
like($out, qr/keys before +clear.*keys after +relation key [0-9a-f]{16}, WAL epoch 1/s, 'from clear to the first epoch');
follows('red');
is(is_standby('red'), 't', 'the plain one is a standby');
go('switchover', 'red');
ok(-e $node{blue}->data_dir . '/standby.signal', 'blue is stopped, and fenced');
# as it was stopped cleanly it can follow
ctl('exec', '-D', $node{blue}->data_dir, '--config', $proxy->conf, '--', 'pg_ctl', '-D', $node{blue}->data_dir, '-l', $node{blue}->logfile, '-w', 'restart');
$node{blue}->_update_pid(1);
follows('blue');
go('switchover', 'blue');
$relation{ relation_key($proxy->keystore . '/blue') } = 'blue';

# rotate, and back under a third key
$proxy->{nodes}{green} = { conninfo => $node{green}->connstr_for_proxy, datadir => $node{green}->data_dir, keyset => 'green' };
$proxy->key_init('green');
$proxy->write_conf;
($rc, $out, $err) = ctl_output('rotate', '--config', $proxy->conf, '--to', 'green', '--old', 'reencrypt', '--yes', '--dry-run');
is($rc, 0, 'a rotation, tried') or diag($out, $err);
like($out, qr/^Before the rotation:\n  the next WAL epoch is staged in keyset "green", for timelines after 4\n  "green" is built, into /m, '... it is told');
unlike(ctl('key', 'show', '--key-dir', $proxy->keystore . '/green'), qr/epoch 2/, '... and nothing staged');
($rc, $out, $err) = ctl_output('rotate', '--config', $proxy->conf, '--to', 'green', '--old', 'reencrypt');
is($rc, 6, 'without another standby the old primary is not re-encrypted');
like($out, qr/FAIL +another standby streams while "blue" is re-encrypted \(--yes does without\)/, 'that is said');
is(is_standby('blue'), 'f', 'nothing has happened');
# which no base backup would have
append_to_file($node{blue}->data_dir . '/left_here', '');
go('rotate', 'green', '--old', 'reencrypt', '--yes');
follows('blue');
ok(-e $node{blue}->data_dir . '/left_here', 'its directory was re-encrypted, not built anew');
is(relation_key($node{blue}->data_dir . '/pg_cryptokeys'), relation_key($proxy->keystore . '/blue'), 'blue has the keys that the keystore calls so');
my ($before) = glob($proxy->keystore . '/blue-before-*');
$relation{ relation_key($before) } = $before;
my $green_key = relation_key($proxy->keystore . '/green');
$out = go('rotate', 'blue', '--old', 'reencrypt', '--yes', '--report', "$tmp/report");
follows('green');
my ($green_before) = glob($proxy->keystore . '/green-before-*');
is(relation_key($green_before), $green_key, 'what green was under is kept aside');
$relation{$green_key} = $green_before;
$relation{ relation_key($proxy->keystore . '/green') } = 'green now';
like($out, qr/to be retired +relation key $green_key and WAL epoch 2 \(walcrypt-ctl key retire\)/, 'what may be retired is said');
like(slurp_file("$tmp/report.svg"), qr/to be retired: relation key $green_key and WAL epoch 2</, '... in the picture, too');
my $report = decode_json(slurp_file("$tmp/report.json"));
is($report->{to_be_retired}, "relation key $green_key and WAL epoch 2", '... and for programs');
my $blue_key = relation_key($proxy->keystore . '/blue');
is("$report->{before}{relation} $report->{before}{epoch}, $report->{after}{relation} $report->{after}{epoch}", "$green_key 2, $blue_key 3", '... with the keys of before and after');
like(slurp_file("$tmp/report.svg"), qr/>write pause [\d.]+ s; timeline \d+ to \d+<.*>keys before: relation key $green_key, WAL epoch 2 \w{16}<.*>keys after: relation key $blue_key, WAL epoch 3 \w{16}</s, '... which the picture shows, and the pause');
like($out, qr/keys before +relation key [0-9a-f]{16}, WAL epoch 2.*keys after +relation key [0-9a-f]{16}, WAL epoch 3/s, 'one WAL epoch for each rotation');
$relation{ relation_key($proxy->keystore . '/blue') } = 'blue now';
is(scalar(keys %relation), 4, 'four relation keys in all');
my %audited = map { join(' ', @$_{qw(action state)}) => 1 } map { decode_json($_) } split(/\n/, slurp_from($proxy->keystore . '/audit.log'));
ok($audited{'rotate begun'} && $audited{'rotate done'}, 'the audit log tells of rotations');
like(ctl('key', 'audit', '--config', $proxy->conf), qr/each follows the one before/, '... and its chain is whole');

$writers->account($node{blue}, only_lost_connections => 1);
$node{blue}->use_layer($proxy->kek_uri);
$node{blue}->check_integrity('blue');
system_or_bail('pg_ctl', '-D', $node{green}->data_dir, '-m', 'fast', '-w', 'stop');
$node{green}->_update_pid(0);
for my $name (qw(blue green)) {
	my $dir = $node{$name}->data_dir;
	is(scalar(() = files_containing($marker, $dir)), 0, "$name: the marker is nowhere");
	($rc, $out, $err) = ctl_output('verify', '-D', $dir, '--config', $proxy->conf);
	is($rc, 0, "$name: every page and WAL page is whole under its keys") or diag($out, $err);
}
# the earlier keys open nothing of either, page for page; the present ones open all
for my $name (qw(blue green)) {
	my $dir = $node{$name}->data_dir;
	for my $old ($before, $green_before) {
		my ($readable, $pages) = readable_pages($old, "$proxy->{dir}/kek", $dir);
		is($readable, 0, "$old opens none of the $pages pages of $name");
	}
	my ($readable, $pages) = readable_pages("$dir/pg_cryptokeys", "$proxy->{dir}/kek", $dir);
	cmp_ok($pages, '>', 1000, "$name has $pages pages");
	is($readable, $pages, '... and its own keys open all of them');
}
my %epochs = map { $_ => 1 } map { @{ $_->{epochs} // [] } } @{ decode_json(ctl('wal', '--json', glob($node{blue}->data_dir . '/pg_wal/0000*[0-9A-F]'))) };
is(join(' ', sort keys %epochs), '1 2 3', 'the WAL of blue has three epochs, and verify has read them all');
system("pg_ctl -D " . $_->data_dir . " -m fast -w stop >/dev/null 2>&1") for grep { -e $_->data_dir . '/postmaster.pid' } values %node;
$_->_update_pid(0) for values %node;
done_testing();
