# key repair --all: changes of several keysets were killed, each at another place, one directory is beyond repair; one run repairs all that
# can be, says what it did to each, and leaves the rest alone.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Strace;

needs_strace();
my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/repairall';
mkdir $tmp, 0700;
kek_file("$tmp/kek$_") for 1 .. 2;
my ($old, $new) = map { "file:$tmp/kek$_" } 1 .. 2;
my @names = qw(amber blue cyan green white);
open(my $f, '>', "$tmp/w.ini") or die;
print $f "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek one]\nuri = $old\n", map({ "[node $_]\nkeyset = $_\nkek = one\n" } @names);
close $f;
chmod 0600, "$tmp/w.ini";
$ENV{WALCRYPT_CONFIG} = "$tmp/w.ini";
ctl(qw(key init), $_, qw(--system-identifier 7300000000000000001)) for @names;
my %ids = map { $_ => join(' ', ctl(qw(key show), $_) =~ /(?:relation key|epoch 1|^ +1 .*?) +(\w{16})/mg) } @names;

sub state_of { my ($name) = @_; return join(' ', grep { -e "$tmp/ks/$name/$_" } qw(live new old)); }
sub files_of { my ($dir) = @_; return join("\0", map { -f $_ ? ($_, slurp_file($_)) : () } sort glob("$dir/*/*")); }
sub opens { my ($name) = @_; return grep { (ctl_output(qw(key verify), $name, '--kek', $_))[0] == 0 } $old, $new; }

# kill -9 at one system call after the other until the directory is left in this state
sub cut
{
	my ($name, $wanted, $call) = @_;
	my $dir = "$tmp/ks/$name";
	system_or_bail('cp', '-a', $dir, "$tmp/$name.before");
	for my $n (1 .. 40) {
		my ($o, $e) = ('', '');
		IPC::Run::run([ 'strace', '-f', '-qq', '-o', "$tmp/trace", '-e', "trace=$call", '-e', "inject=$call:signal=KILL:when=$n", $Walcrypt::ctl, qw(key alter), $name, '--new-kek', $new ], '<', \undef, '>', \$o, '2>', \$e);
		my $killed = $? != 0;
		return ok($killed, "key alter $name: killed at $call $n, which leaves $wanted") if state_of($name) eq $wanted;
		system_or_bail('rm', '-rf', $dir);
		system_or_bail('cp', '-a', "$tmp/$name.before", $dir);
	}
	return ok(0, "key alter $name: killed, which leaves $wanted");
}
cut('amber', 'live new', 'fsync');
cut('blue',  'new old',  'rename');
cut('cyan',  'live old', 'unlinkat');
my %opened = map { $_ => [ opens($_) ] } qw(amber blue cyan);
is(scalar(@{ $opened{$_} }), 1, "$_: one of both keys opens it before the repair") for qw(amber blue cyan);
# what no change that was cut off leaves: all three
system_or_bail('cp', '-a', "$tmp/ks/green/live", "$tmp/ks/green/$_") for qw(new old);
my $white = files_of("$tmp/ks/white");

is(scalar(() = ctl(qw(key list)) =~ /change cut off/g), 4, 'key list tells of them');
my ($rc, $out, $err) = ctl_output(qw(key repair --all));
isnt($rc, 0, 'key repair --all: exit status of the one that cannot be repaired');
like($out, qr{^\Q$tmp\E/ks/amber: .*(removed them|put them in force)}m, 'amber is repaired');
like($out, qr{^\Q$tmp\E/ks/blue: .*(put the old ones back|put them in force)}m, 'blue, too');
like($out, qr{^\Q$tmp\E/ks/cyan: .*removed}m, 'cyan, too');
like($out, qr{^\Q$tmp\E/ks/white: nothing to do$}m, 'white needs none');
like($err, qr{^ERROR:  .*green}m, 'green, which cannot be, is named');
for my $name (qw(amber blue cyan)) {
	is(state_of($name), 'live', "$name: one set is left");
	is(scalar(opens($name)), 1, '... which one of both keys opens');
	is(join(' ', ctl(qw(key show), $name) =~ /(?:relation key|epoch 1|^ +1 .*?) +(\w{16})/mg), $ids{$name}, '... to the same keys');
}
is(files_of("$tmp/ks/white"), $white, 'white is as it was');
is(state_of('green'), 'live new old', 'green, too');

# when it is whole again, one more run finds nothing to do anywhere
system_or_bail('rm', '-r', "$tmp/ks/green/new", "$tmp/ks/green/old");
($rc, $out, $err) = ctl_output(qw(key repair --all));
is($rc, 0, 'once more');
is(scalar(() = $out =~ /: nothing to do$/mg), scalar(@names), '... there is nothing to do') or diag $out;
done_testing();
