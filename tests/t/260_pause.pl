# Goal: PAUSE holds new sessions, authenticated and then waiting, of all or of some; sessions that are there go on; RESUME lets the
# others go, with the configuration of that moment; the state outlives a reload and is seen; what is held too long is told so.
use strict;
use warnings;
use IO::Select;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
my $proxy = Walcrypt::Proxy->new(
	nodes => { red => { conninfo => $red->connstr_for_proxy, allow_clear => 'on' }, blue => { keyset => 'blue' }, green => { keyset => 'green' }, archive => { keyset => 'blue', profile => 1 } });
$proxy->key_init($_) for qw(blue green);
$proxy->start;

# A client that has asked to come in; held: it has been told that it is in, and nothing more.
sub begin
{
	my ($user) = @_;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => $user, replication => 'true', application_name => "test_$user");
	my ($type, $body) = $c->message;
	is("$type" . unpack('N', $body), 'R0', "$user: authenticated");
	return $c;
}
sub goes_on
{
	my ($c, $what) = @_;
	my ($seen) = $c->until('ZE');
	like($seen, qr/^S*KZ$/, "$what goes on");
	$c->send('Q', "IDENTIFY_SYSTEM\0");
	is(($c->until('ZE'))[0], 'TDCZ', '... and is served');
	return;
}
sub held { my ($user) = @_; return wait_for("$user to be held", sub { $proxy->console('SHOW SESSIONS') =~ /\|$user\|test_$user\|local\|held\|/ }); }
sub upstreams { my ($user) = @_; return $red->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test_$user'"); }
sub paused { return $proxy->console('SHOW STATUS') =~ /^paused\|(.*)$/m ? $1 : undef; }
sub paused_nodes { return join(' ', sort map { (split(/\|/))[0] } grep { /\|yes$/ } split(/\n/, $proxy->console('SHOW NODES'))); }

is(paused(), 'no', 'nothing is paused at first');
my $before = begin('blue');
goes_on($before, 'a session before the pause');

# 1 all
is($proxy->console('PAUSE'), 'PAUSE', 'PAUSE');
is(paused(), 'all', 'seen in SHOW STATUS');
is(paused_nodes(), 'archive blue green red', 'and in SHOW NODES');
my $blue = begin('blue');
my $green = begin('green');
held($_) for qw(blue green);
is(upstreams('green'), 0, 'a held session has no upstream connection');
ok(!IO::Select->new($blue->{socket})->can_read(0.3), 'and hears nothing');
$before->send('Q', "IDENTIFY_SYSTEM\0");
is(($before->until('ZE'))[0], 'TDCZ', 'the one that was there goes on');
my $at = $proxy->log_size;
kill('HUP', $proxy->pid);
wait_for_file_line($proxy->logfile, qr/reloaded/, $at);
is(paused(), 'all', 'a reload changes nothing');
held($_) for qw(blue green);
like($proxy->console('SHOW SESSIONS'), qr/^\d+\|walcrypt_admin\|/m, 'the console is never held');

# a stock client waits too
my $dir = PostgreSQL::Test::Utils::tempdir();
my $backup = IPC::Run::start([ 'pg_basebackup', '-D', "$dir/b", '-d', $proxy->connstr('green'), '--checkpoint=fast', '--no-sync', '-X', 'none' ], '<', \undef, '>&', \my $said);
wait_for('pg_basebackup to be held', sub { (() = $proxy->console('SHOW SESSIONS') =~ /\|green\|[^|]*\|local\|held\|/g) == 2 });

# 2 one goes, the others stay
is($proxy->console('RESUME green'), 'RESUME', 'RESUME green');
goes_on($green, 'green');
ok($backup->finish, 'pg_basebackup goes on and is done') or diag($said);
is(paused(), 'all but green', 'the others are held as before');
held('blue');

# 3 a client that leaves while it is held, and one that asks ahead
my $gone = begin('blue');
close $gone->{socket};
my $ahead = begin('archive');
$ahead->send('Q', "IDENTIFY_SYSTEM\0");
wait_for('the one that left to be forgotten', sub { (() = $proxy->console('SHOW SESSIONS') =~ /\|blue\|test_blue\|local\|held\|/g) == 1 });
ok(1, 'a held client that leaves is gone');

# 4 what a reload brings holds for those who are released after it
my $elsewhere = begin('red');
held('red');
delete $proxy->{nodes}{archive};
$proxy->{nodes}{blue}{allow_commands} = 'slots';
$proxy->{nodes}{red}{allow_addr} = '10.9.8.7';
$proxy->write_conf;
is($proxy->console('RELOAD'), 'RELOAD', 'RELOAD while paused');
wait_for('the reload', sub { $proxy->console('SHOW NODES') !~ /^archive/m });
is($proxy->console('RESUME'), 'RESUME', 'RESUME');
is(paused(), 'no', 'nobody is paused any more');
is(paused_nodes(), '', 'nor is any node');
goes_on($blue, 'blue');
$blue->send('Q', "START_REPLICATION PHYSICAL 0/1000000\0");
my ($seen, $body) = $blue->until('ZEW');
like({ Walcrypt::Wire::fields($body) }->{M}, qr/"blue" may not use START_REPLICATION/, 'under the configuration of now');
($seen, $body) = $ahead->until('ZE');
like({ Walcrypt::Wire::fields($body) }->{M}, qr/there is no node or profile "archive" in walcrypt-proxy's configuration any more/, 'a node that is gone is told so');
($seen, $body) = $elsewhere->until('ZE');
like({ Walcrypt::Wire::fields($body) }->{M}, qr/"red" may not connect from local/, 'one that may not come from there any more, too');
delete $proxy->{nodes}{red}{allow_addr};
$proxy->{nodes}{blue} = { keyset => 'blue' };
$proxy->write_conf;
kill('HUP', $proxy->pid);
wait_for('the reload', sub { my @n = $proxy->log =~ /reloaded; sessions/g; @n >= 3 });

# 5 by name, and all but some
is($proxy->console('PAUSE "blue";'), 'PAUSE', 'PAUSE of one');
is(paused(), 'blue', '... is seen');
my $free = begin('green');
goes_on($free, 'another');
my $one = begin('blue');
held('blue');
is($proxy->console('PAUSE EXCEPT blue, red'), 'PAUSE', 'PAUSE EXCEPT two');
is(paused(), 'all but blue, red', '... takes the place of what was said before');
goes_on($one, 'blue');
my $other = begin('green');
held('green');
is($proxy->console('PAUSE blue'), 'PAUSE', 'PAUSE of one of the exceptions');
is(paused(), 'all but red', '... ends it');
$proxy->console('PAUSE');
is(paused(), 'all', 'all');
is($proxy->console('PAUSE'), 'PAUSE', 'twice is no error');

# 6 what is wrong
for my $case ([ 'PAUSE purple', qr/there is no node or profile "purple"/ ], [ 'PAUSE EXCEPT blue, purple', qr/there is no node or profile "purple"/ ],
	[ 'PAUSE blue green', qr/one name is taken here/ ], [ 'RESUME EXCEPT blue', qr/RESUME takes a name, or none/ ], [ 'PAUSED', qr/unknown query/ ],
	[ 'PAUSE EXCEPT blue' . ', blue' x 400, qr/unknown query/ ], [ 'WAIT_CLOSE purple', qr/there is no node/ ]) {
	my ($out, $err) = $proxy->console($case->[0]);
	like($err, $case->[1], substr($case->[0], 0, 40) . ' is refused');
	is(paused(), 'all', '... and changes nothing');
}
my ($out, $err) = run_command([ 'psql', '-XAt', '-d', $proxy->connstr('monitor') . ' dbname=walcrypt', '-c', 'RESUME' ]);
like($err, qr/user "monitor" may look at the console, not change anything/, 'who may only look may not');

# 7 WAIT_CLOSE: until nobody is served but those held
$proxy->console('RESUME');
goes_on($other, 'green');
$proxy->console('PAUSE');
my $waiting = IPC::Run::start([ 'psql', '-XAt', '-d', $proxy->connstr('walcrypt_admin') . ' dbname=walcrypt', '-c', 'WAIT_CLOSE green' ], '<', \undef, '>', \my $answer, '2>', \my $complaint);
my $new = begin('green');
held('green');
$waiting->pump_nb;
is($answer, '', 'it waits while green has sessions');
close $_->{socket} for $green, $free, $other;
ok($waiting->finish, 'and answers when they are gone') or diag($complaint);
is($answer, "WAIT_CLOSE\n", '... though one is held');
is($proxy->console('WAIT_CLOSE EXCEPT blue'), 'WAIT_CLOSE', 'the others have none either');
my $abandoned = IPC::Run::start([ 'psql', '-XAt', '-d', $proxy->connstr('walcrypt_admin') . ' dbname=walcrypt', '-c', 'WAIT_CLOSE' ], '<', \undef, '>&', \my $nothing);
wait_for('it to wait', sub { (() = $proxy->console('SHOW SESSIONS') =~ /\|walcrypt_admin\|[^|]*\|local\|command\|/g) >= 2 });
$abandoned->kill_kill;
wait_for('the client that waited to be forgotten', sub { (() = $proxy->console('SHOW SESSIONS') =~ /\|walcrypt_admin\|/g) == 1 });
ok(1, 'who gives up waiting is gone');

# 8 held too long
$proxy->{settings}{pause_timeout} = '500ms';
$proxy->write_conf;
$at = $proxy->log_size;
ctl('reload', '--config', $proxy->conf);
wait_for_file_line($proxy->logfile, qr/reloaded/, $at);
my $late = begin('blue');
($seen, $body) = $late->until('EZ');
my %why = Walcrypt::Wire::fields($body);
is($why{C}, '57P03', 'a client that is held too long is told: cannot connect now');
like($why{M}, qr/the proxy is paused, and has held this connection for 0.5 s/, '... and why');
ok($late->closed, '... and let go');

# 9 walcrypt-ctl
ctl('resume', '--config', $proxy->conf);
is(paused(), 'no', 'walcrypt-ctl resume');
goes_on($new, 'green');
ctl('pause', '--config', $proxy->conf, '--except=green');
is(paused(), 'all but green', 'walcrypt-ctl pause --except');
ctl('pause', '--config', $proxy->conf, '--wait', 'red');
ok(1, 'walcrypt-ctl pause --wait of one without sessions comes back');
ctl('resume', 'blue', '--config', $proxy->conf);
is(paused(), 'all but green, blue', 'walcrypt-ctl resume NAME');
my ($rc, undef, $told) = ctl_output('pause', '--config', $proxy->conf, 'purple');
is($rc, 1, 'walcrypt-ctl pause of a stranger fails');
like($told, qr/there is no node or profile "purple"/, '... and says why');
($rc) = ctl_output('pause', '--config', $proxy->conf, 'blue', '--except=green');
is($rc, 2, 'a name and --except is a usage error');

# 10 a pause does not hold up the end
my $last = begin('red');
held('red');
is($proxy->stop, 0, 'the proxy stops in good order with held sessions');
done_testing();
