# PostgreSQL's own regression suite on an encrypted server: the same results as on a plain one, byte for byte. The suite is that of
# the source package (scripts/postgres-source), the servers are the installed ones.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Suite;

my $source = Walcrypt::Suite::source(15);
my ($plain, $sealed) = Walcrypt::Suite::servers('file:' . kek_file("$PostgreSQL::Test::Utils::tmp_check/kek_500"));
my (%status, %results, %passed);
for my $node ($plain, $sealed) {
	my $begin = time();
	$node->start;
	($status{ $node->name }, $results{ $node->name }, my $out) = Walcrypt::Suite::run($node, $source, 'regress', '--schedule=./parallel_schedule');
	$passed{ $node->name } = () = $out =~ /\.\.\. ok\b/g;
	note($node->name . ": $passed{ $node->name } tests pass, " . (time() - $begin) . ' s');
}
cmp_ok(scalar(keys %{ $results{plain} }), '>', 200, 'results of ' . scalar(keys %{ $results{plain} }) . ' tests');
is(join(' ', Walcrypt::Suite::differing($results{plain}, $results{sealed})), '', 'the encrypted server gives the same results, byte for byte');
is($status{sealed}, $status{plain}, 'and the same verdict');
cmp_ok($passed{plain}, '>', 200, "of which $passed{plain} are as the suite expects them");
SKIP: {
	skip 'suite and server are not of one minor release: what psql prints differs', 1 unless Walcrypt::Suite::same_release($source, $sealed);
	is($status{sealed}, 0, 'the suite passes whole') or diag(Walcrypt::Suite::diffs($sealed, 'regress'));
}

# the comparison is one: a changed byte is found
my %changed = %{ $results{sealed} };
$changed{'boolean.out'} .= ' ';
is(join(' ', Walcrypt::Suite::differing($results{plain}, \%changed)), 'boolean.out', 'one byte more is a difference');

# what the suite stored: ciphertext, sound, and whole
$_->safe_psql('postgres', 'CHECKPOINT') for $plain, $sealed;
my $marker = 'AAAAxx';
cmp_ok(scalar files_containing($marker, $plain->data_dir . '/base'), '>', 0, "the suite's rows are on the plain server's disk");
is(join(' ', files_containing($marker, $sealed->data_dir . '/base')), '', 'and not on the encrypted one\'s');
$plain->stop;
$sealed->check_integrity('after the regression suite');
done_testing();
