# SPDX-License-Identifier: GPL-2.0-or-later
# Regular expressions, hashes, sorting and arithmetic; prints what came out.
my $text = join ' ', map { "word$_ has " . ($_ * 7919 % 1009) . " parts;" } 1 .. 100000;
my ($sum, $count, %seen) = (0, 0);
while ($text =~ /(\w+) has (\d+) parts/g) {
    $sum += $2;
    $count++;
    $seen{$2} .= substr $1, -1;
}
my @sorted = sort { $seen{$a} cmp $seen{$b} || $a <=> $b } keys %seen;
(my $upper = $text) =~ s/(h)(as)/\U$1\E$2/g;
my @queue = map { $_ * 31 % 997 } 1 .. 3000000;
my $total = 0;
for my $value (@queue) {
    $total = ($total * 3 + $value) % 1000003;
}
my %length;
$length{length $_}++ for split / /, $upper;
print "$sum $count $sorted[0] $sorted[-1] $total ", join(',', map { "$_=$length{$_}" } sort { $a <=> $b } keys %length), "\n";
