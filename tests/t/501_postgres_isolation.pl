# PostgreSQL's own isolation suite on an encrypted server: the same results as on a plain one, byte for byte.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Suite;

my $source = Walcrypt::Suite::source(15);
my ($plain, $sealed) = Walcrypt::Suite::servers('file:' . kek_file("$PostgreSQL::Test::Utils::tmp_check/kek_501"));
my (%status, %results);
for my $node ($plain, $sealed) {
	my $begin = time();
	$node->start;
	($status{ $node->name }, $results{ $node->name }, my $out) = Walcrypt::Suite::run($node, $source, 'isolation', '--schedule=./isolation_schedule');
	note($node->name . ': ' . (() = $out =~ /\.\.\. ok\b/g) . ' tests pass, ' . (time() - $begin) . ' s');
}
cmp_ok(scalar(keys %{ $results{plain} }), '>', 90, 'results of ' . scalar(keys %{ $results{plain} }) . ' tests');
is(join(' ', Walcrypt::Suite::differing($results{plain}, $results{sealed})), '', 'the encrypted server gives the same results, byte for byte');
is($status{$_}, 0, "all tests pass on the $_ server") for qw(plain sealed);
$plain->stop;
$sealed->check_integrity('after the isolation suite');
done_testing();
