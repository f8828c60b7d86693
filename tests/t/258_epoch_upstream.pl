# Goal: an encrypted upstream whose WAL changes its key epoch while sessions stream from it: a cascade, whose primary is replaced by one that
# takes a staged epoch into use, and is then promoted itself into the next one, which the proxy has not read yet. Whoever has the epoch
# gets the WAL as it is, who lacks it gets it translated, a clear standby reads it, an archive with a WAL key of its own goes on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my $settings = "autovacuum = off\nshared_buffers = 16MB\nwal_keep_size = 256MB\nwal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 200ms\n";
my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue next mid staged plain grey);
$node{red}->init(allows_streaming => 1, extra => ['-k']);
$node{red}->append_conf('postgresql.conf', $settings);
$node{red}->start;
$node{red}->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $node{red}->connstr_for_proxy },
	(map { $_ => { keyset => $_, conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir } } qw(blue next mid)),
	(map { $_ => { keyset => $_, upstream => 'mid', datadir => $node{$_}->data_dir } } qw(staged plain)),
	grey => { allow_clear => 'on', upstream => 'mid' }, archive => { keyset => 'archive', profile => 1, upstream => 'mid' } });
my @conf = ('--config', $proxy->conf);
$proxy->key_init($_) for qw(blue next mid staged plain);
$proxy->key_init('archive', '--own-wal-key');
$proxy->start;

sub build
{
	my ($name) = @_;
	$node{$name}->init_from_proxy($proxy, $name);
	$node{$name}->use_layer(undef) if $name eq 'grey';
	$node{$name}->append_conf('postgresql.auto.conf', $settings);
	$node{$name}->start;
	return;
}
sub reload
{
	my ($name, $epoch) = @_;
	$proxy->console('RELOAD');
	return wait_for('the proxy to read its keystore again', sub { $proxy->console('SHOW NODES') =~ /^\Q$name\E\|.*\|$epoch\|/m });
}
my @behind = qw(staged plain grey);
my $facts = 'SELECT count(*), sum(i) FROM t';
# Some WAL, a whole segment and the beginning of another; then everybody has the same rows.
sub written
{
	my ($primary, $what, @standbys) = @_;
	$node{$primary}->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 3000); SELECT pg_switch_wal(); INSERT INTO t VALUES (7)');
	my $lsn = $node{$primary}->lsn('insert');
	for my $name (@standbys) {
		wait_for("$name, $what", sub { ($node{$name}->psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'"))[1] eq 't' });
		is($node{$name}->safe_psql('postgres', $facts), $node{$primary}->safe_psql('postgres', $facts), "$what: $name has the same rows");
	}
	return;
}
sub epochs { my ($name) = @_; return page_epochs($node{$name}->data_dir . '/pg_wal'); }

# blue is the encrypted primary; next, mid and staged have epoch 2 for what comes after its timeline
build('blue');
$node{red}->wait_for_catchup('blue');
$node{red}->stop;
$node{blue}->promote;
ctl(qw(key new-epoch next mid staged --timeline 2), @conf);
reload('mid', 2);
build($_) for qw(next mid), @behind;
mkdir "$tmp/archive";
my $receive = IPC::Run::start([ 'pg_receivewal', '-D', "$tmp/archive", '-d', $proxy->connstr('archive') ], '<', \undef, '>&', \my $said);
wait_for('the archive to begin', sub { () = glob("$tmp/archive/*") });    # in the segment that is ended next
written('blue', 'before', qw(next mid), @behind);

# the primary is replaced: mid goes on, and what it streams is under epoch 2 from the next timeline on
$node{blue}->stop;
$node{next}->promote;
written('next', 'the new primary', 'mid', @behind);
is(epochs($_)->{2}, '1', "$_: timeline 2 is under epoch 1") for qw(mid staged plain);
is(epochs($_)->{3}, '2', "$_ has epoch 2: timeline 3 is under it") for qw(next mid staged);
is(epochs('plain')->{3}, '1', 'plain lacks it: timeline 3 is translated to epoch 1');
is(epochs('grey')->{3}, 'clear', 'grey is clear');

# mid is promoted into epoch 3, of which the proxy has not heard: it says so; when it has, everybody goes on
ctl(qw(key new-epoch next mid staged --timeline 3), @conf);
$node{$_}->restart for qw(mid staged);
written('next', 'after restarts', 'mid', @behind);
my $offset = $proxy->log_size;
$node{next}->stop;
$node{mid}->promote;
# the page that both timelines share is still under the old one's epoch
$node{mid}->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 1000)');
wait_for('the error', sub { $proxy->log($offset) =~ /no WAL key of epoch 3/ });
like($proxy->log($offset), qr/session \d+ \((staged|plain|grey|archive)\).*upstream "mid".*no WAL key of epoch 3/, 'an epoch that the proxy lacks is told by its number');
reload('mid', 3);
written('mid', 'promoted', @behind);
is(epochs('staged')->{4}, '3', 'staged has epoch 3: timeline 4 is under it');
is(epochs('plain')->{4}, '1', 'plain lacks it, too: epoch 1');
is(epochs('grey')->{4}, 'clear', 'grey is clear');

# the archive has it all, under its own key, and says what the upstream's disk says
my $last = $node{mid}->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
wait_for('the archive', sub { -e "$tmp/archive/$last" });
$receive->signal('INT');
$receive->finish;
my %what = encrypted_wal_files("$tmp/archive");
is(join(' ', map { "$_ $what{$_}" } grep { $what{$_} !~ /^(encrypted|empty)$/ } sort keys %what), '', 'the archive is ciphertext');
is_deeply([ map { page_epochs("$tmp/archive")->{$_} } 2 .. 4 ], [ 1, 1, 1 ], '... under its own epoch, whatever the timeline');
ctl('wal', "$tmp/archive/$last", '--decrypt', "$tmp/theirs", '--keyset', 'archive', @conf);
ctl('wal', $node{mid}->data_dir . "/pg_wal/$last", '--decrypt', "$tmp/ours", '-D', $node{mid}->data_dir, '--kek', $proxy->kek_uri);
ok(slurp_file("$tmp/theirs") eq slurp_file("$tmp/ours"), '... and says what stands on the disk');
written('mid', 'at last', @behind);
$node{$_}->stop for @behind, 'mid';
for my $name (qw(mid staged plain)) {
	my ($rc, $out, $err) = ctl_output('verify', '-D', $node{$name}->data_dir, '--kek', $proxy->kek_uri);
	is($rc, 0, "$name verifies clean") or diag($out, $err);
}
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
